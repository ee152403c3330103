// What a decoder layer does between its large matrix products, for one CPU: norms, rotation, attention
// over a paged cache, gating, and low-rank updates of any mixture of adapters.
//
// The products themselves are a library's. These are not, because no library at hand reads a paged
// cache row by row at its exact length, or multiplies each token by its own adapter without copying
// either. Written with the compiler's vector types, so that one source serves AVX2, AVX-512 and NEON.
// Activations are float or bfloat16; all sums are float. Every function is checked in the tests
// against the same function in plain tensors.
//
// OpenMP's runtime is not linked: its symbols are torch's, so that both share one team of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

// Floats in a vector. The tests define it, to check every width on whatever machine they run.
#if !defined(WIDTH)
#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#endif

namespace {

constexpr int W = WIDTH;

typedef float Floats __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef float Quad __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(W * 2), aligned(2), may_alias));

struct BFloat16 {
    uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(BFloat16 x) {
    uint32_t word = uint32_t(x.bits) << 16;
    float result;
    std::memcpy(&result, &word, 4);
    return result;
}

template <class T> T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
template <> inline BFloat16 from_float<BFloat16>(float x) {
    uint32_t word;
    std::memcpy(&word, &x, 4);
    return {uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16)};  // round half to even
}

inline Floats splat(float x) { return x - Floats{}; }
inline Floats load(const float* at) { return *(const Floats*)at; }
inline Floats load(const BFloat16* at) {
    return (Floats)(__builtin_convertvector(*(const Halves*)at, Words) << 16);
}
inline void store(float* at, Floats x) { *(Floats*)at = x; }
inline void store(BFloat16* at, Floats x) {
    Words word = (Words)x;
    word = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    *(Halves*)at = __builtin_convertvector(word, Halves);
}

// The lower and the upper half of a vector, added, down to four lanes.
inline Quad fold(Floats x) {
#if WIDTH == 16
    typedef float Eight __attribute__((vector_size(32)));
    const Eight half = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                       __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
#elif WIDTH == 8
    return __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
#else
    return (Quad)x;
#endif
}

inline float sum(Floats x) {
    const Quad four = fold(x);
    return (four[0] + four[1]) + (four[2] + four[3]);
}

// The sums of four vectors, as four lanes.
inline Quad sum_four(const Floats* x) {
    const Quad a = fold(x[0]), b = fold(x[1]), c = fold(x[2]), d = fold(x[3]);
    const Quad ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Quad cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

// exp(x): 2^n times a polynomial on [-ln2/2, ln2/2], to two units in the last place (after Cephes). Beyond
// 87 and 88 it stays what it is there, because n would run out of the exponent's eight bits.
inline Floats exponential(Floats x) {
    const Floats low = splat(-87.0f), high = splat(88.0f);
    x = x < low ? low : x;
    x = x > high ? high : x;
    Floats scaled = x * 1.44269504088896341f;
    Ints n = __builtin_convertvector(scaled + (scaled < 0 ? splat(-0.5f) : splat(0.5f)), Ints);
    Floats fraction = __builtin_convertvector(n, Floats);
    x -= fraction * 0.693359375f;
    x -= fraction * -2.12194440e-4f;
    Floats y = splat(1.9875691500e-4f);
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * (x * x) + x + 1.0f;
    return y * (Floats)((n + 127) << 23);
}

inline float silu(float x) { return x / (1.0f + std::exp(-x)); }
inline Floats silu(Floats x) { return x / (1.0f + exponential(-x)); }

template <class T> float dot(const T* x, const T* y, int64_t size) {
    Floats total[2] = {};
    int64_t i = 0;
    for (; i + 2 * W <= size; i += 2 * W) {
        total[0] += load(x + i) * load(y + i);
        total[1] += load(x + i + W) * load(y + i + W);
    }
    for (; i + W <= size; i += W) total[0] += load(x + i) * load(y + i);
    float result = sum(total[0] + total[1]);
    for (; i < size; i++) result += to_float(x[i]) * to_float(y[i]);
    return result;
}

// out = x / rms(x) * weight. Like transformers, x is rounded to its type before the weight is applied.
template <class T> void norm_row(const T* x, const T* weight, T* out, int64_t size, float eps) {
    const float scale = 1.0f / std::sqrt(dot(x, x, size) / float(size) + eps);
    int64_t i = 0;
    for (; i + W <= size; i += W) {
        T rounded[W];
        store(rounded, load(x + i) * scale);
        store(out + i, load(rounded) * load(weight + i));
    }
    for (; i < size; i++) out[i] = from_float<T>(to_float(from_float<T>(to_float(x[i]) * scale)) * to_float(weight[i]));
}

template <class T>
void add_norm(T* x, const T* delta, const T* weight, T* out, int64_t num_tokens, int64_t size, float eps) {
#pragma omp parallel for if (num_tokens > 8)
    for (int64_t t = 0; t < num_tokens; t++) {
        T* row = x + t * size;
        if (delta) {
            const T* add = delta + t * size;
            int64_t i = 0;
            for (; i + W <= size; i += W) store(row + i, load(row + i) + load(add + i));
            for (; i < size; i++) row[i] = from_float<T>(to_float(row[i]) + to_float(add[i]));
        }
        norm_row(row, weight, out + t * size, size, eps);
    }
}

// The products and the sum of a rotation are rounded to T one by one, as tensors would be.
template <class T> void rotate_head(T* x, const T* cos, const T* sin, int64_t head_dim) {
    const int64_t half = head_dim / 2;
    auto round = [](float value) { return to_float(from_float<T>(value)); };
    for (int64_t i = 0; i < half; i++) {
        const float first = to_float(x[i]), second = to_float(x[i + half]);
        x[i] = from_float<T>(round(first * to_float(cos[i])) - round(second * to_float(sin[i])));
        x[i + half] = from_float<T>(round(second * to_float(cos[i + half])) + round(first * to_float(sin[i + half])));
    }
}

struct Shape {
    int64_t num_heads, num_kv_heads, head_dim, block_size;
    int64_t width() const { return (num_heads + 2 * num_kv_heads) * head_dim; }
};

template <class T>
void rotate_and_store(T* qkv, const T* cos, const T* sin, const int64_t* positions, const int64_t* cache_slots,
                      const T* q_norm, const T* k_norm, float eps, T* keys, T* values, int64_t num_tokens,
                      Shape shape) {
    const int64_t d = shape.head_dim;
#pragma omp parallel for if (num_tokens > 8)
    for (int64_t t = 0; t < num_tokens; t++) {
        T* row = qkv + t * shape.width();
        for (int64_t head = 0; head < shape.num_heads + shape.num_kv_heads; head++) {
            T* x = row + head * d;
            const T* weight = head < shape.num_heads ? q_norm : k_norm;
            if (weight) norm_row(x, weight, x, d, eps);
            rotate_head(x, cos + positions[t] * d, sin + positions[t] * d, d);
        }
        const T* key = row + shape.num_heads * d;
        const int64_t within = cache_slots[t] % shape.block_size;
        const int64_t place = ((cache_slots[t] - within) * shape.num_kv_heads + within) * d;
        for (int64_t head = 0; head < shape.num_kv_heads; head++) {
            const int64_t at = place + head * shape.block_size * d;
            std::memcpy(keys + at, key + head * d, d * sizeof(T));
            std::memcpy(values + at, key + (shape.num_kv_heads + head) * d, d * sizeof(T));
        }
    }
}

// In place: scores begin ... end - 1 -> exp(scores - max), those around them -> 0; returns 1 / sum.
// The scores go on to a multiple of W.
inline float soften(float* scores, int64_t begin, int64_t end) {
    const float nothing = -std::numeric_limits<float>::infinity();
    const int64_t size = (end + W - 1) / W * W;
    std::fill(scores, scores + begin, nothing);
    std::fill(scores + end, scores + size, nothing);
    Floats tops = splat(nothing);
    for (int64_t i = 0; i < size; i += W) {
        const Floats score = load(scores + i);
        tops = score > tops ? score : tops;
    }
    float top = nothing;
    for (int i = 0; i < W; i++) top = std::max(top, tops[i]);
    Floats total = {};
    for (int64_t i = 0; i < size; i += W) {
        const Floats score = load(scores + i), weight = score > nothing ? exponential(score - top) : Floats{};
        store(scores + i, weight);
        total += weight;
    }
    return 1.0f / sum(total);
}

// Blocks lie anywhere, so the processor cannot guess the next one: its rows are asked for while this one is read.
template <class T> inline void prefetch(const T* row, int64_t size) {
    for (int64_t i = 0; i < size; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(row + i);
}

// Dot products of HEADS queries with four cached keys; scores of a head lie `step` apart.
template <class T, int HEADS>
void score_four(const T* queries, const T* keys, int64_t head_dim, float scale, float* scores, int64_t step) {
    Floats total[HEADS][4] = {};
    for (int64_t i = 0; i < head_dim; i += W) {
        Floats key[4];
        for (int p = 0; p < 4; p++) key[p] = load(keys + p * head_dim + i);
        for (int h = 0; h < HEADS; h++) {
            const Floats query = load(queries + h * head_dim + i);
            for (int p = 0; p < 4; p++) total[h][p] += query * key[p];
        }
    }
    for (int h = 0; h < HEADS; h++) *(Quad*)(scores + h * step) = sum_four(total[h]) * scale;
}

// One query token over its sequence's cache, positions first ... length - 1, all heads.
//
// Whole blocks are read: what a block holds before `first` and after the end gets no weight. A block of
// one head is block_size rows of head_dim, and block_size is a multiple of four.
template <class T> struct TokenAttention {
    const T *keys, *values;
    Shape shape;
    float scale;
    std::vector<int64_t> blocks;  // where each block begins, in elements
    std::vector<float> scores;

    void find(const int32_t* table, int64_t first, int64_t length) {
        const int64_t size = shape.num_kv_heads * shape.block_size * shape.head_dim;
        blocks.clear();
        for (int64_t b = first / shape.block_size; b * shape.block_size < length; b++) blocks.push_back(table[b] * size);
    }

    const T* block(const T* cache, size_t index, int64_t kv_head) const {
        return cache + blocks[std::min(index, blocks.size() - 1)] + kv_head * shape.block_size * shape.head_dim;
    }

    template <int HEADS> void score(const T* queries, int64_t kv_head, int64_t step) {
        const int64_t d = shape.head_dim;
        for (size_t b = 0; b < blocks.size(); b++) {
            const T *here = block(keys, b, kv_head), *next = block(keys, b + 1, kv_head);
            for (int64_t p = 0; p < shape.block_size; p += 4) {
                prefetch(next + p * d, 4 * d);
                score_four<T, HEADS>(queries, here + p * d, d, scale, &scores[b * shape.block_size + p], step);
            }
        }
    }

    // out = shares[h] * sum of scores[p] * values[p], VECS vectors of HEADS heads at a time, from `offset` on.
    template <int HEADS, int VECS>
    void mix(int64_t kv_head, int64_t offset, int64_t end, int64_t step, const float* shares, T* out) const {
        const int64_t d = shape.head_dim;
        Floats total[HEADS][VECS] = {};
        for (size_t b = 0; b < blocks.size(); b++) {
            const T *here = block(values, b, kv_head) + offset, *next = block(values, b + 1, kv_head) + offset;
            const float* weights = &scores[b * shape.block_size];
            const int64_t size = std::min<int64_t>(shape.block_size, end - int64_t(b) * shape.block_size);
            for (int64_t p = 0; p < size; p++) {
                prefetch(next + p * d, VECS * W);
                for (int v = 0; v < VECS; v++) {
                    const Floats part = load(here + p * d + v * W);
                    for (int h = 0; h < HEADS; h++) total[h][v] += weights[h * step + p] * part;
                }
            }
        }
        for (int h = 0; h < HEADS; h++)
            for (int v = 0; v < VECS; v++) store(out + h * d + offset + v * W, total[h][v] * shares[h]);
    }

    // HEADS query heads of one key-value head; `begin` and `end` are first and length, counted from the first block.
    template <int HEADS> void run(const T* queries, int64_t kv_head, int64_t begin, int64_t end, T* out) {
        const int64_t d = shape.head_dim, step = (int64_t(blocks.size()) * shape.block_size + W - 1) / W * W;
        scores.resize(HEADS * step);
        score<HEADS>(queries, kv_head, step);
        float shares[HEADS];
        for (int h = 0; h < HEADS; h++) shares[h] = soften(&scores[h * step], begin, end);
        int64_t i = 0;
        for (; i + 4 * W <= d; i += 4 * W) mix<HEADS, 4>(kv_head, i, end, step, shares, out);
        for (; i < d; i += W) mix<HEADS, 1>(kv_head, i, end, step, shares, out);
    }

    void run(const T* row, const int32_t* table, int64_t first, int64_t length, T* out) {
        find(table, first, length);
        const int64_t before = first - first % shape.block_size, begin = first - before, end = length - before;
        const int64_t group = shape.num_heads / shape.num_kv_heads, d = shape.head_dim;
        for (int64_t kv_head = 0; kv_head < shape.num_kv_heads; kv_head++)
            for (int64_t head = kv_head * group, left = group; left > 0;) {
                const int64_t num_heads = left == 3 || left > 4 ? 3 : left >= 2 ? 2 : 1;
                const T* queries = row + head * d;
                switch (num_heads) {
                    case 3: run<3>(queries, kv_head, begin, end, out + head * d); break;
                    case 2: run<2>(queries, kv_head, begin, end, out + head * d); break;
                    default: run<1>(queries, kv_head, begin, end, out + head * d);
                }
                head += num_heads, left -= num_heads;
            }
    }
};

template <class T>
void attend(const T* qkv, const T* keys, const T* values, const int32_t* tables, int64_t table_width,
            const int64_t* table_rows, const int64_t* positions, int64_t window, float scale, T* out,
            int64_t num_tokens, Shape shape) {
#pragma omp parallel if (num_tokens > 1)
    {
        TokenAttention<T> attention{keys, values, shape, scale, {}, {}};
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < num_tokens; t++) {
            const int64_t length = positions[t] + 1, first = window > 0 ? std::max<int64_t>(0, length - window) : 0;
            attention.run(qkv + t * shape.width(), tables + table_rows[t] * table_width, first, length,
                          out + t * shape.num_heads * shape.head_dim);
        }
    }
}

template <class T> void gate(const T* gate_up, T* out, int64_t num_tokens, int64_t size) {
#pragma omp parallel for if (num_tokens > 8)
    for (int64_t t = 0; t < num_tokens; t++) {
        const T *x = gate_up + t * 2 * size, *up = x + size;
        T* y = out + t * size;
        int64_t i = 0;
        for (; i + W <= size; i += W) {
            T rounded[W];
            store(rounded, silu(load(x + i)));
            store(y + i, load(rounded) * load(up + i));
        }
        for (; i < size; i++) y[i] = from_float<T>(to_float(from_float<T>(silu(to_float(x[i])))) * to_float(up[i]));
    }
}

}  // namespace

// One linear's stacked adapter matrices, as the bank lays them out.
struct LoraPair {
    const void* a;            // slot 0's A, [rank, in_features]
    const void* b;            // slot 0's B, [rank, out_features]
    const int64_t* ranks;     // [num_slots], 0: the adapter does not touch this linear
    int64_t a_step, b_step;   // elements from one slot to the next
    int64_t in_features, out_features;
    int64_t first_output;     // where its outputs begin in a row of y
};

// Consecutive tokens of one adapter.
struct LoraSegment {
    int64_t first, num_tokens, slot;
};

namespace {

// hidden[t][r] = x[t] . a[r], RANKS rows of A at a time, from row r on; returns the first row not done.
template <class T, int TOKENS, int RANKS>
int64_t shrink(const T* x, const T* a, int64_t in, int64_t rank, int64_t r, float* hidden) {
    for (; r + RANKS <= rank; r += RANKS) {
        Floats total[TOKENS][RANKS] = {};
        int64_t i = 0;
        for (; i + W <= in; i += W) {
            Floats rows[RANKS];
            for (int k = 0; k < RANKS; k++) rows[k] = load(a + (r + k) * in + i);
            for (int t = 0; t < TOKENS; t++) {
                const Floats mine = load(x + t * in + i);
                for (int k = 0; k < RANKS; k++) total[t][k] += mine * rows[k];
            }
        }
        for (int t = 0; t < TOKENS; t++)
            for (int k = 0; k < RANKS; k++) {
                float result = sum(total[t][k]);
                for (int64_t j = i; j < in; j++) result += to_float(x[t * in + j]) * to_float(a[(r + k) * in + j]);
                hidden[t * rank + r + k] = result;
            }
    }
    return r;
}

// y[t] += hidden[t] b, VECS vectors of outputs at a time.
template <class T, int TOKENS, int VECS>
void expand(const float* hidden, const T* b, int64_t rank, int64_t out, T* y, int64_t stride) {
    Floats total[TOKENS][VECS];
    for (int t = 0; t < TOKENS; t++)
        for (int v = 0; v < VECS; v++) total[t][v] = load(y + t * stride + v * W);
    for (int64_t r = 0; r < rank; r++) {
        Floats row[VECS];
        for (int v = 0; v < VECS; v++) row[v] = load(b + r * out + v * W);
        for (int t = 0; t < TOKENS; t++)
            for (int v = 0; v < VECS; v++) total[t][v] += hidden[t * rank + r] * row[v];
    }
    for (int t = 0; t < TOKENS; t++)
        for (int v = 0; v < VECS; v++) store(y + t * stride + v * W, total[t][v]);
}

template <class T, int TOKENS>
void update(const LoraPair& pair, int64_t slot, const T* x, T* y, int64_t stride, std::vector<float>& hidden) {
    // So many that their sums just fit into sixteen registers, beside what is multiplied.
    constexpr int RANKS = TOKENS <= 3 ? 4 : 2, VECS = TOKENS == 1 ? 8 : TOKENS == 2 ? 4 : 2;
    const int64_t rank = pair.ranks[slot], in = pair.in_features, out = pair.out_features;
    if (!rank) return;
    const T* a = (const T*)pair.a + slot * pair.a_step;
    const T* b = (const T*)pair.b + slot * pair.b_step;
    hidden.resize(TOKENS * rank);
    const int64_t done = shrink<T, TOKENS, RANKS>(x, a, in, rank, 0, hidden.data());
    shrink<T, TOKENS, 1>(x, a, in, rank, done, hidden.data());
    y += pair.first_output;
    int64_t i = 0;
    for (; i + VECS * W <= out; i += VECS * W) expand<T, TOKENS, VECS>(hidden.data(), b + i, rank, out, y + i, stride);
    for (; i + W <= out; i += W) expand<T, TOKENS, 1>(hidden.data(), b + i, rank, out, y + i, stride);
    for (; i < out; i++)
        for (int t = 0; t < TOKENS; t++) {
            float total = to_float(y[t * stride + i]);
            for (int64_t r = 0; r < rank; r++) total += hidden[t * rank + r] * to_float(b[r * out + i]);
            y[t * stride + i] = from_float<T>(total);
        }
}

constexpr int64_t TILE = 6;

template <class T>
void update(int64_t num_tokens, const LoraPair& pair, int64_t slot, const T* x, T* y, int64_t stride,
            std::vector<float>& hidden) {
    switch (num_tokens) {
        case 1: return update<T, 1>(pair, slot, x, y, stride, hidden);
        case 2: return update<T, 2>(pair, slot, x, y, stride, hidden);
        case 3: return update<T, 3>(pair, slot, x, y, stride, hidden);
        case 4: return update<T, 4>(pair, slot, x, y, stride, hidden);
        case 5: return update<T, 5>(pair, slot, x, y, stride, hidden);
        default: return update<T, TILE>(pair, slot, x, y, stride, hidden);
    }
}

template <class T>
void add_lora(const LoraPair* pairs, int64_t num_pairs, const LoraSegment* segments, int64_t num_segments, const T* x,
              T* y, int64_t stride) {
    std::vector<LoraSegment> tiles;
    for (int64_t s = 0; s < num_segments; s++) {
        const LoraSegment& all = segments[s];
        for (int64_t t = 0; t < all.num_tokens; t += TILE)
            tiles.push_back({all.first + t, std::min(TILE, all.num_tokens - t), all.slot});
    }
    const int64_t num_tiles = tiles.size(), num_jobs = num_tiles * num_pairs;
#pragma omp parallel if (num_jobs > 1)
    {
        std::vector<float> hidden;
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < num_jobs; job++) {
            // Pairs outside: tiles of one adapter follow each other while its matrices are in the cache.
            const LoraPair& pair = pairs[job / num_tiles];
            const LoraSegment& tile = tiles[job % num_tiles];
            update(tile.num_tokens, pair, tile.slot, x + tile.first * pair.in_features, y + tile.first * stride, stride,
                   hidden);
        }
    }
}

}  // namespace

#define EXPORT(T, suffix)                                                                                              \
    extern "C" void add_norm_##suffix(T* x, const T* delta, const T* weight, T* out, int64_t num_tokens, int64_t size, \
                                      float eps) {                                                                     \
        add_norm(x, delta, weight, out, num_tokens, size, eps);                                                        \
    }                                                                                                                  \
    extern "C" void rotate_and_store_##suffix(T* qkv, const T* cos, const T* sin, const int64_t* positions,            \
                                              const int64_t* cache_slots, const T* q_norm, const T* k_norm, float eps, \
                                              T* keys, T* values, int64_t num_tokens, int64_t num_heads,               \
                                              int64_t num_kv_heads, int64_t head_dim, int64_t block_size) {            \
        rotate_and_store(qkv, cos, sin, positions, cache_slots, q_norm, k_norm, eps, keys, values, num_tokens,         \
                         Shape{num_heads, num_kv_heads, head_dim, block_size});                                        \
    }                                                                                                                  \
    extern "C" void attend_##suffix(const T* qkv, const T* keys, const T* values, const int32_t* tables,               \
                                    int64_t table_width, const int64_t* table_rows, const int64_t* positions,          \
                                    int64_t window, float scale, T* out, int64_t num_tokens, int64_t num_heads,        \
                                    int64_t num_kv_heads, int64_t head_dim, int64_t block_size) {                      \
        attend(qkv, keys, values, tables, table_width, table_rows, positions, window, scale, out, num_tokens,          \
               Shape{num_heads, num_kv_heads, head_dim, block_size});                                                  \
    }                                                                                                                  \
    extern "C" void gate_##suffix(const T* gate_up, T* out, int64_t num_tokens, int64_t size) {                        \
        gate(gate_up, out, num_tokens, size);                                                                          \
    }                                                                                                                  \
    extern "C" void add_lora_##suffix(const LoraPair* pairs, int64_t num_pairs, const LoraSegment* segments,           \
                                      int64_t num_segments, const T* x, T* y, int64_t stride) {                        \
        add_lora(pairs, num_pairs, segments, num_segments, x, y, stride);                                              \
    }

EXPORT(float, float32)
EXPORT(BFloat16, bfloat16)

extern "C" int vector_width() { return W; }
