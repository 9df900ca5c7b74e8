// phi (rows, n C) in the order in which it is multiplied, so that it streams from the second-level cache.
//
//     panel    channel by channel, all rows of it side by side, zeros up to whole vectors: what many tokens' channels multiply
//     blocks   for every stream and every block of channels, row by row, zeros past the stream's end: what gradients are made of
#pragma once

#include "simd/machine.h"
#include "streams/streams.h"

namespace streammix::SM_ISA {

template <class V>
inline constexpr int block_channels = 2 * lanes<V>;

template <class V>
int64_t panel_numbers(int rows, int64_t width) {
    return (rows + lanes<V> - 1) / lanes<V> * lanes<V> * width;
}
template <class V>
void pack_panel(const Scalar<V>* phi, int rows, int64_t width, Scalar<V>* panel) {
    constexpr int W = lanes<V>;
    const int stride = (rows + W - 1) / W * W;
    for (int k = 0; k < rows; k += W)
        for_channels<V>(0, width, [&](int64_t e, auto count) __attribute__((always_inline)) {
            V x[W];
            for (int i = 0; i < W; ++i) x[i] = k + i < rows ? load<V>(phi + (k + i) * width + e, count) : V(0);
            transpose<W / 2>(x, W);
            for (int i = 0; i < W && e + i < width; ++i) store(panel + (e + i) * stride + k, x[i], All());
        });
}

template <class V>
int64_t blocks_numbers(int rows, int n, int64_t C) {
    constexpr int wide = block_channels<V>;
    return (C + wide - 1) / wide * wide * n * rows;
}
// f(place in blocks, place in phi, numbers) for every row of every block
template <class V, class Function>
void for_blocks(int rows, int n, int64_t C, Function f) {
    constexpr int wide = block_channels<V>;
    int64_t block = 0;
    for (int j = 0; j < n; ++j)
        for (int64_t c = 0; c < C; c += wide)
            for (int k = 0; k < rows; ++k, block += wide) f(block, k * n * C + j * C + c, C - c < wide ? C - c : wide);
}
template <class V>
void pack_blocks(const Scalar<V>* phi, int rows, int n, int64_t C, Scalar<V>* blocks) {
    for_blocks<V>(rows, n, C, [&](int64_t block, int64_t place, int64_t numbers) {
        for (int64_t i = 0; i < block_channels<V>; ++i) blocks[block + i] = i < numbers ? phi[place + i] : 0;
    });
}
template <class V>
void unpack_blocks(const Scalar<V>* blocks, int rows, int n, int64_t C, Scalar<V>* phi) {
    for_blocks<V>(rows, n, C, [&](int64_t block, int64_t place, int64_t numbers) { memcpy(phi + place, blocks + block, numbers * sizeof(Scalar<V>)); });
}

}  // namespace streammix::SM_ISA
