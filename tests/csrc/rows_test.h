// Runs of tokens that are stored stream by stream, and sites whose streams make their own weights. Part of solver_test.cpp.
#pragma once

// A state whose tokens follow each other, in the order that streams have
Buffer in_order_of(const Streams& s, int64_t tokens, Buffer& from, int offset) {
    const size_t row = s.C * bytes(s.dtype);
    Buffer to(s.dtype, tokens * s.n * s.C, offset);
    for (int64_t m = 0; m < tokens; ++m)
        for (int j = 0; j < s.n; ++j) memcpy(to.data() + ((m / s.run * s.n + j) * s.run + m % s.run) * row, from.data() + (m * s.n + j) * row, row);
    return to;
}
void check_equal(Buffer& a, Buffer& b, const std::string& place) { check(!memcmp(a.data(), b.data(), a.count * bytes(a.dtype)), place); }

// The bits of tokens that follow each other
void test_runs(const Kernels& k, DType t, int n, Random& random) {
    const DType wide = computing(t);
    for (const auto& [runs, run, C, offset] : {std::tuple{1, 1, 1, 0}, {2, 3, 7, 1}, {1, 5, 33, 0}, {3, 4, 64, 0}}) {
        const std::string place = std::string(k.isa) + " " + name(t) + " n " + std::to_string(n) + " C " + std::to_string(C) + " in runs";
        const int64_t tokens = int64_t(runs) * run, width = int64_t(n) * C, square = int64_t(n) * n;
        const Streams usual{t, n, C}, in_runs{t, n, C, run};
        const auto moved = [&, offset = offset](Buffer& from) { return in_order_of(in_runs, tokens, from, offset); };
        const auto equal = [&](Buffer& a, Buffer& b, const char* what) { check_equal(a, b, place + " " + what); };
        Buffer x = filled(t, tokens * width, offset, random), y = filled(t, tokens * C, 0, random), G = filled(t, tokens * width, offset, random);
        Buffer pre = filled(wide, tokens * n, 0, random), post = filled(wide, tokens * n, 0, random), res = filled(wide, tokens * square, 0, random);
        Buffer x_moved = moved(x), G_moved = moved(G);
        for (const bool large : {false, true}) {
            struct Results {
                Buffer out, u, dx, dy, dpost, dres, rdx, dpre;
            };
            const auto results = [&, C = C](const Streams& s, Buffer& state, Buffer& grad) {
                Results r{{t, tokens * width}, {t, tokens * C},         {t, tokens * width}, {t, tokens * C},
                          {wide, tokens * n},  {wide, tokens * square}, {t, tokens * width}, {wide, tokens * n}};
                k.write(s, {state.data(), y.data(), post.data(), res.data(), r.out.data(), large}, 0, tokens);
                k.read(s, state.data(), pre.data(), r.u.data(), 0, tokens);
                const WriteBackward w{grad.data(), state.data(), y.data(),       post.data(),   res.data(),
                                      r.dx.data(), r.dy.data(),  r.dpost.data(), r.dres.data(), large};
                k.write_backward(s, w, 0, tokens / 2);
                k.write_backward(s, w, tokens / 2, tokens);
                k.read_backward(s, {y.data(), state.data(), pre.data(), r.rdx.data(), r.dpre.data(), large}, 0, tokens);
                return r;
            };
            Results a = results(usual, x, G), b = results(in_runs, x_moved, G_moved);
            Buffer out = moved(a.out), dx = moved(a.dx), rdx = moved(a.rdx);
            equal(out, b.out, "write"), equal(dx, b.dx, "write, dx"), equal(rdx, b.rdx, "read, dx");
            equal(a.u, b.u, "read"), equal(a.dy, b.dy, "write, dy"), equal(a.dpost, b.dpost, "write, dpost");
            equal(a.dres, b.dres, "write, dres"), equal(a.dpre, b.dpre, "read, dpre");
        }
    }
}

// P and 1/rms against loops; and the bits of tokens that follow each other, but for sums over tokens.
void test_rows(const Kernels& k, DType t, int n, Random& random) {
    const DType wide = computing(t);
    for (const auto& [runs, run, C] : {std::tuple{1, 1, 1}, {2, 3, 7}, {1, 35, 33}, {3, 17, 64}}) {
        const std::string place = std::string(k.isa) + " " + name(t) + " n " + std::to_string(n) + " C " + std::to_string(C) + " rows";
        const int64_t tokens = int64_t(runs) * run, width = int64_t(n) * C;
        const int rows = n + 2;
        const Streams usual{t, n, C}, in_runs{t, n, C, run}, one{t, 1, C};
        Buffer x = filled(t, tokens * width, 0, random), du = filled(t, tokens * C, 0, random), dpost = filled(wide, tokens * n, 0, random);
        Buffer dmix = filled(wide, tokens * n * n, 0, random), weight = filled(wide, rows * C, 0, random), scale = filled(wide, rows, 0, random);
        Buffer bias = filled(wide, n * rows, 0, random), x_moved = in_order_of(in_runs, tokens, x, 0);
        const Packed packed = k.packed(one, rows, tokens);
        Buffer panel(wide, packed.panel), blocks(wide, packed.blocks);
        Generator g{weight.data(), nullptr, nullptr, scale.data(), bias.data(), rows, 1e-6, Activation::sigmoid, Activation::twice_sigmoid, 1e-3, 1.5, 1e-2};
        g.tanh = random() % 2;
        if (packed.panel) k.pack_panel(one, weight.data(), rows, panel.data()), g.panel = panel.data();
        k.pack_blocks(one, weight.data(), rows, blocks.data());
        g.blocks = blocks.data();
        struct Results {
            Buffer u, post, mix, P, r, dx, dweight, dscale, dbias;
        };
        const auto results = [&, C = C](const Streams& s, Buffer& state) {
            Results o{{t, tokens * C},     {wide, tokens * n},    {wide, tokens * n * n}, {wide, tokens * n * rows}, {wide, tokens * n},
                      {t, tokens * width}, {wide, packed.blocks}, {wide, n * rows},       {wide, n * rows}};
            const Read read{state.data(), o.u.data(), o.post.data(), o.mix.data(), o.P.data(), o.r.data()};
            k.rows_site_read(s, g, read, 0, tokens / 3);
            k.rows_site_read(s, g, read, tokens / 3, tokens);
            const ReadBackward back{du.data(),  dpost.data(), dmix.data(),      nullptr,         state.data(),  o.P.data(),
                                    o.r.data(), o.dx.data(),  o.dweight.data(), o.dscale.data(), o.dbias.data()};
            k.rows_site_read_backward(s, g, back, 0, tokens / 2);
            k.rows_site_read_backward(s, g, back, tokens / 2, tokens);
            return o;
        };
        Results a = results(usual, x), b = results(in_runs, x_moved);
        Buffer dx = in_order_of(in_runs, tokens, a.dx, 0);
        check_equal(a.u, b.u, place + " u"), check_equal(a.post, b.post, place + " post"), check_equal(a.mix, b.mix, place + " mix");
        check_equal(a.P, b.P, place + " P"), check_equal(a.r, b.r, place + " 1/rms"), check_equal(dx, b.dx, place + " dx");
        for (int64_t m = 0; m < tokens * n; ++m) {
            double squares = 0;
            for (int64_t c = 0; c < C; ++c) squares += x.get(m * C + c) * x.get(m * C + c);
            const double r = 1 / sqrt(squares / double(C) + 1e-6);
            check_close(a.r.get(m), r, wide, r * double(C), place + " 1/rms");
            for (int row = 0; row < rows; ++row) {
                double dot = 0, size = 0;
                for (int64_t c = 0; c < C; ++c) {
                    const double product = weight.get(row * C + c) * x.get(m * C + c);
                    dot += product, size += fabs(product);
                }
                check_close(a.P.get(m * rows + row), r * dot, wide, r * size, place + " P");
            }
        }
        for (int64_t i = 0; i < a.dbias.count; ++i) check_close(a.dbias.get(i), b.dbias.get(i), wide, 64 * double(tokens), place + " dbias");
    }
}
