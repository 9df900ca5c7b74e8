// The CPU kernels of the operators on streams: reading, writing, and a site's coefficients.

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "torch/tokens.h"

namespace streammix {
namespace {

// ---------------------------------------------------------------------------------------------------------- read and write
Tensor read(const Tensor& x, const Tensor& pre, int64_t dim) {
    const Tokens tokens(x, dim);
    const Streams s = tokens.streams;
    const Tensor X = as_contiguous(x), P = tokens.coefficient(pre, "pre", {s.n});
    Tensor u = without_streams(x, dim);
    const void *from = X.const_data_ptr(), *weights = P.const_data_ptr();
    void* to = u.mutable_data_ptr();
    const Kernels& k = kernels();
    for_batch(tokens.count, tokens.grain(), [&](int64_t begin, int64_t end) { k.read(s, from, weights, to, begin, end); });
    return u;
}

std::tuple<Tensor, Tensor> read_backward(const Tensor& grad, const Tensor& x, const Tensor& pre, int64_t dim) {
    const Tokens tokens(x, dim);
    const Streams s = tokens.streams;
    const Tensor X = as_contiguous(x), P = tokens.coefficient(pre, "pre", {s.n}), G = tokens.state(grad, "grad", {s.C});
    Tensor dx = new_like(x), dpre = new_like(P);
    const ReadOnlyBackward r{G.const_data_ptr(), X.const_data_ptr(), P.const_data_ptr(), dx.mutable_data_ptr(), dpre.mutable_data_ptr(), large(dx)};
    const Kernels& k = kernels();
    for_batch(tokens.count, tokens.grain(), [&](int64_t begin, int64_t end) { k.read_backward(s, r, begin, end); });
    return {dx, dpre};
}

// The tensors of a write, contiguous and checked, and its output
struct Written {
    Tensor x, y, post, res;

    Written(const Tokens& tokens, const Tensor& x_, const Tensor& y_, const Tensor& post_, const Tensor& res_)
        : x(as_contiguous(x_)),
          y(tokens.state(y_, "y", {tokens.streams.C})),
          post(tokens.coefficient(post_, "post", {tokens.streams.n})),
          res(tokens.coefficient(res_, "res", {tokens.streams.n, tokens.streams.n})) {}

    Write to(Tensor& out) const {
        return {x.const_data_ptr(), y.const_data_ptr(), post.const_data_ptr(), res.const_data_ptr(), out.mutable_data_ptr(), large(out)};
    }
};

Tensor write(const Tensor& x, const Tensor& y, const Tensor& post, const Tensor& res, int64_t dim) {
    const Tokens tokens(x, dim);
    const Written in(tokens, x, y, post, res);
    Tensor out = new_like(x);
    const Write w = in.to(out);
    const Kernels& k = kernels();
    for_batch(tokens.count, tokens.grain(), [&](int64_t begin, int64_t end) { k.write(tokens.streams, w, begin, end); });
    return out;
}

struct WriteGradients {
    Tensor dx, dy, dpost, dres;

    explicit WriteGradients(const Written& in) : dx(new_like(in.x)), dy(new_like(in.y)), dpost(new_like(in.post)), dres(new_like(in.res)) {}

    WriteBackward of(const Written& in, const void* grad) {
        return {grad,
                in.x.const_data_ptr(),
                in.y.const_data_ptr(),
                in.post.const_data_ptr(),
                in.res.const_data_ptr(),
                dx.mutable_data_ptr(),
                dy.mutable_data_ptr(),
                dpost.mutable_data_ptr(),
                dres.mutable_data_ptr(),
                large(dx)};
    }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> write_backward(const Tensor& grad, const Tensor& x, const Tensor& y, const Tensor& post, const Tensor& res,
                                                          int64_t dim) {
    const Tokens tokens(x, dim);
    const Written in(tokens, x, y, post, res);
    const Tensor G = tokens.state(grad, "grad", {tokens.streams.n, tokens.streams.C});
    WriteGradients d(in);
    const WriteBackward w = d.of(in, G.const_data_ptr());
    const Kernels& k = kernels();
    for_batch(tokens.count, tokens.grain(), [&](int64_t begin, int64_t end) { k.write_backward(tokens.streams, w, begin, end); });
    return {d.dx, d.dy, d.dpost, d.dres};
}

// ------------------------------------------------------------------------------------------------------- a site's coefficients
// phi, gates and biases; gates spread over the rows they scale: reads, writes, mix. One gate fewer: `mix_gate` stands for the last.
struct Generators {
    Tensor weight, bias;
    std::vector<char> scale;  // rows numbers of the computing type
    Buffer packed;
    Generator g;
    int gates;

    Generators(const Tokens& tokens, const Tensor& weight_, const Tensor& gate, const Tensor& bias_, double mix_gate, double norm_eps, int64_t read,
               int64_t write, double read_eps, double write_multiplier, double write_eps)
        : weight(as_contiguous(weight_)), bias(as_contiguous(bias_)), g{}, gates(static_cast<int>(gate.numel())) {
        const int n = tokens.streams.n;
        const int rows = weight.dim() == 2 ? static_cast<int>(weight.size(0)) : 0;
        const bool wide = tokens.streams.dtype == DType::float64;
        SM_CHECK(rows >= 2 * n && weight.size(1) == n * tokens.streams.C && bias.numel() == rows && gates >= 2 && gates <= 3,
                 "streammix: weight is (2 n + mixing logits, n C), bias one number a row, gate two or three numbers");
        for (const Tensor& t : {weight, bias, gate})
            SM_CHECK(dtype_of(t) == (wide ? DType::float64 : DType::float32), "streammix: parameters are float32, for float64 streams float64");
        scale.resize(rows * (wide ? sizeof(double) : sizeof(float)));
        wide ? spread<double>(as_contiguous(gate), n, rows, mix_gate) : spread<float>(as_contiguous(gate), n, rows, mix_gate);
        g = {weight.const_data_ptr(), nullptr,  nullptr,          scale.data(), bias.const_data_ptr(), rows, norm_eps, activation(read),
             activation(write),       read_eps, write_multiplier, write_eps};
    }

    // phi alone: projections, which nothing is made of yet
    Generators(const Tokens& tokens, const Tensor& weight_, double norm_eps) : weight(as_contiguous(weight_)), bias(weight), g{}, gates(0) {
        const bool wide = tokens.streams.dtype == DType::float64;
        SM_CHECK(weight.dim() == 2 && weight.size(1) == tokens.streams.n * tokens.streams.C, "streammix: weight is (rows, n C)");
        SM_CHECK(dtype_of(weight) == (wide ? DType::float64 : DType::float32), "streammix: parameters are float32, for float64 streams float64");
        g.weight = weight.const_data_ptr();
        g.rows = static_cast<int>(weight.size(0));
        g.norm_eps = norm_eps;
    }

    // phi as the forward pass over so many tokens takes it
    void pack_forward(const Tokens& tokens, const Kernels& k) {
        if (const int64_t numbers = k.packed(tokens.streams, g.rows, tokens.count).panel) {
            packed = Buffer(numbers * size_of_number(tokens));
            k.pack_panel(tokens.streams, g.weight, g.rows, packed.get());
            g.panel = packed.get();
        }
    }
    // ... and as the backward pass does; returns how many numbers that are
    int64_t pack_backward(const Tokens& tokens, const Kernels& k) {
        const int64_t numbers = k.packed(tokens.streams, g.rows, tokens.count).blocks;
        packed = Buffer(numbers * size_of_number(tokens));
        k.pack_blocks(tokens.streams, g.weight, g.rows, packed.get());
        g.blocks = packed.get();
        return numbers;
    }

    // dgate from dscale
    template <class F>
    void gather(const F* dscale, F* dgate, int n) const {
        std::fill(dgate, dgate + gates, F(0));
        for (int k = 0; k < g.rows; ++k)
            if (group(k, n) < gates) dgate[group(k, n)] += dscale[k];
    }

private:
    static int group(int row, int n) { return row < n ? 0 : row < 2 * n ? 1 : 2; }

    template <class F>
    void spread(const Tensor& gate, int n, int rows, double mix_gate) {
        const F* from = static_cast<const F*>(gate.const_data_ptr());
        F* to = reinterpret_cast<F*>(scale.data());
        for (int k = 0; k < rows; ++k) to[k] = group(k, n) < gates ? from[group(k, n)] : F(mix_gate);
    }
};

std::tuple<Tensor, Tensor> coefficients(const Tensor& x, const Tensor& weight, double norm_eps) {
    const Tokens tokens(x);
    const Tensor X = as_contiguous(x);
    const Kernels& k = kernels();
    Generators gen(tokens, weight, norm_eps);
    gen.pack_forward(tokens, k);
    Tensor projected = new_tensor(gen.weight, x, tokens.lead, {gen.g.rows}), inverse_rms = new_tensor(gen.weight, x, tokens.lead);
    const Read r{X.const_data_ptr(), nullptr, nullptr, nullptr, projected.mutable_data_ptr(), inverse_rms.mutable_data_ptr()};
    for_batch(tokens.count, tokens.grain(), [&](int64_t begin, int64_t end) { k.site_read(tokens.streams, gen.g, r, begin, end); });
    return {projected, inverse_rms};
}

// u, post, mix, P and 1/rms of a site's read
struct ReadOutputs {
    Tensor u, post, mix, projected, inverse_rms;

    ReadOutputs(const Tokens& tokens, const Tensor& x, const Generators& gen)
        : u(new_tensor(x, x, tokens.lead, {tokens.streams.C})),
          post(new_tensor(gen.weight, x, tokens.lead, {tokens.streams.n})),
          mix(new_tensor(gen.weight, x, tokens.lead, {gen.g.rows - 2 * tokens.streams.n})),
          projected(new_tensor(gen.weight, x, tokens.lead, {gen.g.rows})),
          inverse_rms(new_tensor(gen.weight, x, tokens.lead)) {}

    Read of(const void* x) {
        return {x, u.mutable_data_ptr(), post.mutable_data_ptr(), mix.mutable_data_ptr(), projected.mutable_data_ptr(), inverse_rms.mutable_data_ptr()};
    }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> site_read(const Tensor& x, const Tensor& weight, const Tensor& gate, const Tensor& bias, double mix_gate,
                                                             double norm_eps, int64_t read, int64_t write, double read_eps, double write_multiplier,
                                                             double write_eps) {
    const Tokens tokens(x);
    const Tensor X = as_contiguous(x);
    const Kernels& k = kernels();
    Generators gen(tokens, weight, gate, bias, mix_gate, norm_eps, read, write, read_eps, write_multiplier, write_eps);
    gen.pack_forward(tokens, k);
    ReadOutputs out(tokens, x, gen);
    const Read r = out.of(X.const_data_ptr());
    for_batch(tokens.count, tokens.grain(), [&](int64_t begin, int64_t end) { k.site_read(tokens.streams, gen.g, r, begin, end); });
    return {out.u, out.post, out.mix, out.projected, out.inverse_rms};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> write_site_read(const Tensor& x, const Tensor& y, const Tensor& post, const Tensor& res,
                                                                           const Tensor& weight, const Tensor& gate, const Tensor& bias, double mix_gate,
                                                                           double norm_eps, int64_t read, int64_t write, double read_eps,
                                                                           double write_multiplier, double write_eps) {
    const Tokens tokens(x);
    const Written in(tokens, x, y, post, res);
    const Kernels& k = kernels();
    Generators gen(tokens, weight, gate, bias, mix_gate, norm_eps, read, write, read_eps, write_multiplier, write_eps);
    gen.pack_forward(tokens, k);
    Tensor state = new_like(x);
    ReadOutputs out(tokens, x, gen);
    const Write w = in.to(state);
    const Read r = out.of(w.out);
    for_batch(tokens.count, tokens.grain(), [&](int64_t begin, int64_t end) { k.write_site_read(tokens.streams, w, gen.g, r, begin, end); });
    return {state, out.u, out.post, out.mix, out.projected, out.inverse_rms};
}

// Without the derivatives' needs, and with H_res, the projection of the mixing logits
std::tuple<Tensor, Tensor, Tensor, Tensor> next_site(const Tensor& x, const Tensor& y, const Tensor& post, const Tensor& res, const Tensor& weight,
                                                     const Tensor& gate, const Tensor& bias, double mix_gate, double norm_eps, int64_t read, int64_t write,
                                                     double read_eps, double write_multiplier, double write_eps, std::optional<double> tol) {
    const Tokens tokens(x);
    const Streams s = tokens.streams;
    const Written in(tokens, x, y, post, res);
    const Kernels& k = kernels();
    Generators gen(tokens, weight, gate, bias, mix_gate, norm_eps, read, write, read_eps, write_multiplier, write_eps);
    SM_CHECK(gen.g.rows == 2 * s.n + s.n * s.n, "streammix: next_site takes n^2 mixing logits");
    gen.pack_forward(tokens, k);
    Tensor state = new_like(x), u = new_like(in.y), next_post = new_like(in.post), next_res = new_like(in.res);
    const Buffer projected(tokens.count * gen.g.rows * size_of_number(tokens)), inverse_rms(tokens.count * size_of_number(tokens));
    const Write w = in.to(state);
    void* H = next_res.mutable_data_ptr();
    const Read r{w.out, u.mutable_data_ptr(), next_post.mutable_data_ptr(), H, projected.get(), inverse_rms.get()};
    const Matrices m{dtype_of(in.res), s.n, false};
    for_batch(tokens.count, tokens.grain(), [&](int64_t begin, int64_t end) {
        k.write_site_read(s, w, gen.g, r, begin, end);
        k.birkhoff(m, H, H, begin, end, tol.value_or(0));
    });
    return {state, u, next_post, next_res};
}

// dweight (in blocks), dscale and dbias of a range lie one after the other.
struct ParameterSums {
    int64_t weights, rows;
    bool wide;
    Buffer total;

    ParameterSums(const Tokens& tokens, const Generators& gen, int64_t blocks)
        : weights(blocks), rows(gen.g.rows), wide(tokens.streams.dtype == DType::float64), total(numbers() * size_of_number(tokens)) {}

    int64_t numbers() const { return weights + 2 * rows; }
    void put(ReadBackward& r, void* sums) const {
        char* at = static_cast<char*>(sums);
        const int64_t size = wide ? sizeof(double) : sizeof(float);
        r.dweight = at;
        r.dscale = at + weights * size;
        r.dbias = at + (weights + rows) * size;
    }
};

struct ReadGradients {
    Tensor du, dpost, dmix, projected, inverse_rms;

    ReadGradients(const Tokens& tokens, const Generators& gen, const Tensor& du_, const Tensor& dpost_, const Tensor& dmix_, const Tensor& projected_,
                  const Tensor& inverse_rms_)
        : du(tokens.state(du_, "du", {tokens.streams.C})),
          dpost(tokens.coefficient(dpost_, "dpost", {tokens.streams.n})),
          dmix(tokens.coefficient(dmix_, "dmix", {gen.g.rows - 2 * tokens.streams.n})),
          projected(tokens.coefficient(projected_, "projected", {gen.g.rows})),
          inverse_rms(tokens.coefficient(inverse_rms_, "inverse_rms", {})) {}

    ReadBackward of(const void* through, const void* x, void* dx) const {
        return {du.const_data_ptr(),
                dpost.const_data_ptr(),
                dmix.const_data_ptr(),
                through,
                x,
                projected.const_data_ptr(),
                inverse_rms.const_data_ptr(),
                dx,
                nullptr,
                nullptr,
                nullptr};
    }
};

// dweight, dgate and dbias out of what summed_over_ranges left
std::tuple<Tensor, Tensor, Tensor> parameter_gradients(const Tokens& tokens, const Generators& gen, const ParameterSums& sums, const Tensor& gate,
                                                       const Kernels& k) {
    Tensor dweight = new_like(gen.weight), dgate = new_like(gate), dbias = new_like(gen.bias);
    const auto typed = [&]<class F>(F) {
        const F* from = reinterpret_cast<const F*>(sums.total.get());
        k.unpack_blocks(tokens.streams, from, gen.g.rows, dweight.mutable_data_ptr());
        gen.gather<F>(from + sums.weights, static_cast<F*>(dgate.mutable_data_ptr()), tokens.streams.n);
        std::copy(from + sums.weights + sums.rows, from + sums.numbers(), static_cast<F*>(dbias.mutable_data_ptr()));
    };
    sums.wide ? typed(double()) : typed(float());
    return {dweight, dgate, dbias};
}

std::tuple<Tensor, Tensor> coefficients_backward(const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& projected,
                                                 const Tensor& inverse_rms) {
    const Tokens tokens(x);
    const Tensor X = as_contiguous(x);
    const Kernels& k = kernels();
    Generators gen(tokens, weight, 0);
    const ParameterSums sums(tokens, gen, gen.pack_backward(tokens, k));
    const Tensor G = tokens.coefficient(grad, "grad", {gen.g.rows}), P = tokens.coefficient(projected, "projected", {gen.g.rows});
    const Tensor R = tokens.coefficient(inverse_rms, "inverse_rms", {});
    Tensor dx = new_like(x), dweight = new_like(gen.weight);
    ReadBackward base{};
    base.dmix = G.const_data_ptr();
    base.x = X.const_data_ptr();
    base.projected = P.const_data_ptr();
    base.inverse_rms = R.const_data_ptr();
    base.dx = dx.mutable_data_ptr();
    summed_over_ranges(tokens, sums.wide, sums.numbers(), sums.total.get(), [&](int64_t begin, int64_t end, void* own) {
        ReadBackward r = base;
        sums.put(r, own);
        k.site_read_backward(tokens.streams, gen.g, r, begin, end);
    });
    k.unpack_blocks(tokens.streams, sums.total.get(), gen.g.rows, dweight.mutable_data_ptr());
    return {dx, dweight};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> site_read_backward(const Tensor& du, const Tensor& dpost, const Tensor& dmix, const Tensor& x, const Tensor& weight,
                                                              const Tensor& gate, const Tensor& bias, const Tensor& projected, const Tensor& inverse_rms,
                                                              double mix_gate, int64_t read, int64_t write, double read_eps, double write_multiplier,
                                                              double write_eps) {
    const Tokens tokens(x);
    const Tensor X = as_contiguous(x);
    const Kernels& k = kernels();
    Generators gen(tokens, weight, gate, bias, mix_gate, 0, read, write, read_eps, write_multiplier, write_eps);
    const ReadGradients grads(tokens, gen, du, dpost, dmix, projected, inverse_rms);
    const ParameterSums sums(tokens, gen, gen.pack_backward(tokens, k));
    Tensor dx = new_like(x);
    const ReadBackward base = grads.of(nullptr, X.const_data_ptr(), dx.mutable_data_ptr());
    summed_over_ranges(tokens, sums.wide, sums.numbers(), sums.total.get(), [&](int64_t begin, int64_t end, void* own) {
        ReadBackward r = base;
        sums.put(r, own);
        k.site_read_backward(tokens.streams, gen.g, r, begin, end);
    });
    const auto [dweight, dgate, dbias] = parameter_gradients(tokens, gen, sums, gate, k);
    return {dx, dweight, dgate, dbias};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> write_site_read_backward(
    const std::optional<Tensor>& dstate, const Tensor& du, const Tensor& dnext_post, const Tensor& dmix, const Tensor& x, const Tensor& y, const Tensor& post,
    const Tensor& res, const Tensor& state, const Tensor& weight, const Tensor& gate, const Tensor& bias, const Tensor& projected, const Tensor& inverse_rms,
    double mix_gate, int64_t read, int64_t write, double read_eps, double write_multiplier, double write_eps) {
    const Tokens tokens(x);
    const Written in(tokens, x, y, post, res);
    const Kernels& k = kernels();
    Generators gen(tokens, weight, gate, bias, mix_gate, 0, read, write, read_eps, write_multiplier, write_eps);
    const ReadGradients grads(tokens, gen, du, dnext_post, dmix, projected, inverse_rms);
    const ParameterSums sums(tokens, gen, gen.pack_backward(tokens, k));
    const std::initializer_list<int64_t> shape = {tokens.streams.n, tokens.streams.C};
    const Tensor S = tokens.state(state, "state", shape);
    std::optional<Tensor> through;
    if (dstate) through = tokens.state(*dstate, "dstate", shape);
    WriteGradients d(in);
    const WriteBackward w = d.of(in, nullptr);
    const ReadBackward base = grads.of(through ? through->const_data_ptr() : nullptr, S.const_data_ptr(), nullptr);
    summed_over_ranges(tokens, sums.wide, sums.numbers(), sums.total.get(), [&](int64_t begin, int64_t end, void* own) {
        ReadBackward r = base;
        sums.put(r, own);
        k.write_site_read_backward(tokens.streams, w, gen.g, r, begin, end);
    });
    const auto [dweight, dgate, dbias] = parameter_gradients(tokens, gen, sums, gate, k);
    return {d.dx, d.dy, d.dpost, d.dres, dweight, dgate, dbias};
}

}  // namespace

SM_LIBRARY(streams, "CPU") {
    m.impl("read", boxed<&read>);
    m.impl("read_backward", boxed<&read_backward>);
    m.impl("write", boxed<&write>);
    m.impl("write_backward", boxed<&write_backward>);
    m.impl("coefficients", boxed<&coefficients>);
    m.impl("coefficients_backward", boxed<&coefficients_backward>);
    m.impl("site_read", boxed<&site_read>);
    m.impl("site_read_backward", boxed<&site_read_backward>);
    m.impl("write_site_read", boxed<&write_site_read>);
    m.impl("next_site", boxed<&next_site>);
    m.impl("write_site_read_backward", boxed<&write_site_read_backward>);
}

}  // namespace streammix
