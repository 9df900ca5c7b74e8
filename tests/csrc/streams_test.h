// The kernels on streams against plain loops, on odd numbers of tokens and channels and unaligned memory. Part of solver_test.cpp.
#pragma once

// Coefficients of n streams; of many rows for a generator
DType computing(DType t) { return t == DType::float64 ? DType::float64 : DType::float32; }

Buffer filled(DType t, int64_t count, int offset, Random& random) {
    Buffer b(t, count, offset);
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < count; ++i) b.set(i, normal(random));
    return b;
}
void check_close(double a, double b, DType t, double size, const std::string& place) {
    if (isnan(b)) return check(isnan(a), place + ": a NaN was lost");
    check(fabs(a - b) <= 8 * eps(t) * (1 + size), place + ": " + std::to_string(a) + " for " + std::to_string(b));
}

void test_streams(const Kernels& k, DType t, int n, Random& random) {
    const DType wide = computing(t);
    for (const auto& [tokens, C, offset] : {std::tuple{1, 1, 0}, {3, 7, 1}, {2, 33, 0}, {17, 40, 3}, {29, 64, 0}}) {
        const std::string place = std::string(k.isa) + " " + name(t) + " n " + std::to_string(n) + " C " + std::to_string(C);
        const Streams s{t, n, C};
        const int64_t width = int64_t(n) * C, square = int64_t(n) * n;
        Buffer x = filled(t, tokens * width, offset, random), y = filled(t, tokens * C, offset, random), G = filled(t, tokens * width, offset, random);
        Buffer pre = filled(wide, tokens * n, 0, random), post = filled(wide, tokens * n, 0, random), res = filled(wide, tokens * square, 0, random);
        const double bad = random() % 3 ? 1.0 : NAN;
        x.set(tokens / 2 * width, bad);

        for (const bool large : {false, true}) {  // stores that pass the caches by, where memory is aligned for them
            Buffer out(t, tokens * width), u(t, tokens * C);
            k.write(s, {x.data(), y.data(), post.data(), res.data(), out.data(), large}, 0, tokens);
            k.read(s, x.data(), pre.data(), u.data(), 0, tokens);
            Buffer dx(t, tokens * width), dy(t, tokens * C), dpost(wide, tokens * n), dres(wide, tokens * square), rdx(t, tokens * width),
                dpre(wide, tokens * n);
            k.write_backward(s, {G.data(), x.data(), y.data(), post.data(), res.data(), dx.data(), dy.data(), dpost.data(), dres.data(), large}, 0, tokens);
            k.read_backward(s, {y.data(), x.data(), pre.data(), rdx.data(), dpre.data(), large}, 0, tokens);
            for (int64_t m = 0; m < tokens; ++m) {
                for (int64_t c = 0; c < C; ++c) {
                    double read = 0, dbranch = 0;
                    for (int j = 0; j < n; ++j) {
                        double mixed = post.get(m * n + j) * y.get(m * C + c), back = 0;
                        for (int i = 0; i < n; ++i) {
                            mixed += res.get(m * square + j * n + i) * x.get(m * width + i * C + c);
                            back += res.get(m * square + i * n + j) * G.get(m * width + i * C + c);
                        }
                        check_close(out.get(m * width + j * C + c), mixed, t, 4 * n, place + " write");
                        check_close(dx.get(m * width + j * C + c), back, t, 4 * n, place + " write, dx");
                        check_close(rdx.get(m * width + j * C + c), pre.get(m * n + j) * y.get(m * C + c), t, 4, place + " read, dx");
                        read += pre.get(m * n + j) * x.get(m * width + j * C + c);
                        dbranch += post.get(m * n + j) * G.get(m * width + j * C + c);
                    }
                    check_close(u.get(m * C + c), read, t, 4 * n, place + " read");
                    check_close(dy.get(m * C + c), dbranch, t, 4 * n, place + " write, dy");
                }
                for (int i = 0; i < n; ++i) {
                    double with_y = 0, with_x = 0;
                    for (int64_t c = 0; c < C; ++c) {
                        with_y += G.get(m * width + i * C + c) * y.get(m * C + c);
                        with_x += y.get(m * C + c) * x.get(m * width + i * C + c);
                    }
                    check_close(dpost.get(m * n + i), with_y, wide, 4 * double(C), place + " write, dpost");
                    check_close(dpre.get(m * n + i), with_x, wide, 4 * double(C), place + " read, dpre");
                    for (int j = 0; j < n; ++j) {
                        double dot = 0;
                        for (int64_t c = 0; c < C; ++c) dot += G.get(m * width + i * C + c) * x.get(m * width + j * C + c);
                        check_close(dres.get(m * square + i * n + j), dot, wide, 4 * double(C), place + " write, dres");
                    }
                }
            }
        }
    }
}

// P and 1/rms against loops, and one pass against two; the backward in one pass gives the bits of the backward in two.
void test_sites(const Kernels& k, DType t, int n, Random& random) {
    const DType wide = computing(t);
    for (const auto& [tokens, C, mixed] : {std::tuple{1, 1, 0}, {3, 7, 5}, {17, 40, n * n}, {29, 96, 1}}) {
        const std::string place = std::string(k.isa) + " " + name(t) + " n " + std::to_string(n) + " C " + std::to_string(C);
        const Streams s{t, n, C};
        const int rows = 2 * n + mixed;
        const int64_t width = int64_t(n) * C;
        Buffer x = filled(t, tokens * width, 0, random), y = filled(t, tokens * C, 0, random), post = filled(wide, tokens * n, 0, random);
        Buffer res = filled(wide, tokens * n * n, 0, random), weight = filled(wide, rows * width, 0, random), scale = filled(wide, rows, 0, random);
        Buffer bias = filled(wide, rows, 0, random);
        const Packed packed = k.packed(s, rows, tokens);
        Buffer panel(wide, packed.panel), blocks(wide, packed.blocks);
        Generator g{weight.data(), nullptr, nullptr, scale.data(), bias.data(), rows, 1e-6, Activation::sigmoid, Activation::twice_sigmoid, 1e-3, 1.5, 1e-2};
        if (packed.panel) k.pack_panel(s, weight.data(), rows, panel.data()), g.panel = panel.data();
        k.pack_blocks(s, weight.data(), rows, blocks.data());
        g.blocks = blocks.data();
        Buffer back(wide, rows * width);
        k.unpack_blocks(s, blocks.data(), rows, back.data());
        check(!memcmp(back.data(), weight.data(), rows * width * bytes(wide)), place + ": weights changed on their way to blocks and back");

        struct Outputs {
            Buffer u, post, mix, P, r;
        };
        const auto outputs = [&] { return Outputs{{t, tokens * C}, {wide, tokens * n}, {wide, tokens * mixed}, {wide, tokens * rows}, {wide, tokens}}; };
        const auto read = [&](Outputs& o, const void* state) { return Read{state, o.u.data(), o.post.data(), o.mix.data(), o.P.data(), o.r.data()}; };
        Buffer state(t, tokens * width), fused_state(t, tokens * width);
        Outputs two = outputs(), one = outputs();
        k.write(s, {x.data(), y.data(), post.data(), res.data(), state.data(), false}, 0, tokens);
        k.site_read(s, g, read(two, state.data()), 0, tokens);
        k.write_site_read(s, {x.data(), y.data(), post.data(), res.data(), fused_state.data(), false}, g, read(one, fused_state.data()), 0, tokens);
        check(!memcmp(state.data(), fused_state.data(), tokens * width * bytes(t)), place + ": state in one pass");
        check(!memcmp(two.u.data(), one.u.data(), tokens * C * bytes(t)), place + ": u in one pass");
        check(!memcmp(two.P.data(), one.P.data(), tokens * rows * bytes(wide)), place + ": P in one pass");
        for (int64_t m = 0; m < tokens; ++m) {
            double squares = 0;
            for (int64_t e = 0; e < width; ++e) squares += state.get(m * width + e) * state.get(m * width + e);
            const double r = 1 / sqrt(squares / double(width) + 1e-6);
            check_close(two.r.get(m), r, wide, r * double(width), place + " 1/rms");
            for (int row = 0; row < rows; ++row) {
                double dot = 0, size = 0;
                for (int64_t e = 0; e < width; ++e) {
                    const double product = weight.get(row * width + e) * state.get(m * width + e);
                    dot += product, size += fabs(product);
                }
                check_close(two.P.get(m * rows + row), r * dot, wide, r * size, place + " P");
            }
        }

        Buffer du = filled(t, tokens * C, 0, random), dpost = filled(wide, tokens * n, 0, random), dmix = filled(wide, tokens * mixed, 0, random);
        Buffer through = filled(t, tokens * width, 0, random);
        struct Gradients {
            Buffer dx, dy, dpost, dres, dweight, dscale, dbias;
        };
        const auto gradients = [&] {
            return Gradients{{t, tokens * width},   {t, tokens * C}, {wide, tokens * n}, {wide, tokens * n * n},
                             {wide, packed.blocks}, {wide, rows},    {wide, rows}};
        };
        Gradients a = gradients(), b = gradients();
        Buffer between(t, tokens * width);
        const auto site = [&](Gradients& d, void* dx) {
            return ReadBackward{du.data(),    dpost.data(), dmix.data(),      through.data(),  state.data(),  two.P.data(),
                                two.r.data(), dx,           d.dweight.data(), d.dscale.data(), d.dbias.data()};
        };
        const auto write = [&](Gradients& d, const void* grad) {
            return WriteBackward{grad, x.data(), y.data(), post.data(), res.data(), d.dx.data(), d.dy.data(), d.dpost.data(), d.dres.data(), false};
        };
        k.site_read_backward(s, g, site(a, between.data()), 0, tokens);
        k.write_backward(s, write(a, between.data()), 0, tokens);
        k.write_site_read_backward(s, write(b, nullptr), g, site(b, nullptr), 0, tokens);
        check(!memcmp(a.dx.data(), b.dx.data(), tokens * width * bytes(t)), place + ": dx in one pass");
        check(!memcmp(a.dres.data(), b.dres.data(), tokens * n * n * bytes(wide)), place + ": dres in one pass");
        check(!memcmp(a.dweight.data(), b.dweight.data(), packed.blocks * bytes(wide)), place + ": dweight in one pass");
        check(!memcmp(a.dbias.data(), b.dbias.data(), rows * bytes(wide)), place + ": dbias in one pass");
    }
}
