// A BERT encoder's whole forward pass on a CPU, its matrix products in 16-bit fixed point.
//
// Processors without 16-bit floats still multiply pairs of 16-bit integers and add them into 32 bits, at
// twice the rate of float multiplications. So weights are integers, scaled row by row at load, and
// activations become integers, scaled token by token. A scale is so small that no sum can leave 32
// bits, hence sums are exact: the vector of a text is the same, to the last bit, in any company and on any
// number of threads. What lies between the products is float.
//
// Texts lie one after another without padding. Written with the compiler's vector types but for one
// instruction. OpenMP's runtime is not linked: its symbols are torch's, so that both share one team of threads.

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

// 32-bit lanes in a vector. The tests define it, to check the narrower widths on whatever machine they run.
#if !defined(WIDTH)
#if defined(__AVX512BW__)
#define WIDTH 16
#elif defined(__AVX2__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#endif

// Registers hold the sums of ROWS tokens and PANEL outputs at once; gcc keeps them there only if told to unroll.
#define UNROLL _Pragma("GCC unroll 16")

namespace {

constexpr int64_t W = WIDTH, PANEL = 2 * W;
constexpr int ROWS = WIDTH == 16 ? 12 : 6;

// Tokens whose activations stay in the second-level cache while all weights pass by.
constexpr int64_t ROW_BLOCK = 96;

// The largest activation: weights are scaled at load so that this one cannot overflow, see compiled_bert.py.
constexpr float ACTIVATION_LIMIT = 4095;

typedef float Floats __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int16_t Shorts __attribute__((vector_size(W * 2), aligned(2), may_alias));

// sums += a[2i] * b[2i] + a[2i + 1] * b[2i + 1], lane by lane, a and b being pairs of 16-bit integers.
inline Ints add_products(Ints sums, Ints a, Ints b) {
#if WIDTH == 16 && defined(__AVX512VNNI__)
    return (Ints)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
#elif WIDTH == 16
    return sums + (Ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif WIDTH == 8
    return sums + (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return sums + (Ints)_mm_madd_epi16((__m128i)a, (__m128i)b);
#endif
}

inline Floats splat(float x) { return x - Floats{}; }
inline Floats load(const float* at) { return *(const Floats*)at; }
inline void store(float* at, Floats x) { *(Floats*)at = x; }
inline Floats absolute(Floats x) { return x < 0 ? -x : x; }
inline Floats larger(Floats x, Floats y) { return x > y ? x : y; }

inline float sum(Floats x) {
    float total = 0;
    for (int i = 0; i < W; i++) total += x[i];
    return total;
}

inline float largest(Floats x) {
    float top = x[0];
    for (int i = 1; i < W; i++) top = std::max(top, x[i]);
    return top;
}

// To the nearest integer, for |x| < 2^22: this summand leaves no bits for a fraction.
inline Ints round(Floats x) {
    const Floats shift = splat(12582912.0f);
    return (Ints)(x + shift) - (Ints)shift;
}

// exp(x) for x <= 0: 2^n times a polynomial on [-ln2/2, ln2/2], to two units in the last place (after
// Cephes). Below -87 it stays what it is there, because n would run out of the exponent's eight bits.
inline Floats exponential(Floats x) {
    x = larger(x, splat(-87.0f));
    const Ints n = round(x * 1.44269504088896341f);
    const Floats whole = __builtin_convertvector(n, Floats);
    x -= whole * 0.693359375f;
    x -= whole * -2.12194440e-4f;
    Floats y = splat(1.9875691500e-4f);
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * (x * x) + x + 1.0f;
    return y * (Floats)((n + 127) << 23);
}

// x * (1 + erf(x / sqrt(2))) / 2. erf is a ratio of polynomials up to 4, beyond which it is 1 in float: the
// coefficients are those of Eigen's fast erf, good to a few units in the last place.
inline Floats gelu(Floats x) {
    Floats z = x * 0.70710678118654752f;
    z = larger(z, splat(-4.0f));
    z = z < 4.0f ? z : splat(4.0f);
    const Floats square = z * z;
    Floats above = splat(-2.72614225801306e-10f);
    above = above * square + 2.77068142495902e-08f;
    above = above * square - 2.10102402082508e-06f;
    above = above * square - 5.69250639462346e-05f;
    above = above * square - 7.34990630326855e-04f;
    above = above * square - 2.95459980854025e-03f;
    above = above * square - 1.60960333262415e-02f;
    Floats below = splat(-1.45660718464996e-05f);
    below = below * square - 2.13374055278905e-04f;
    below = below * square - 1.68282697438203e-03f;
    below = below * square - 7.37332916720468e-03f;
    below = below * square - 1.42647390514189e-02f;
    return x * (0.5f + 0.5f * z * above / below);
}

}  // namespace

// weight is laid out in panels: [out / PANEL][in / 2][PANEL][2].
struct Linear {
    const int16_t* weight;
    const float *scales, *bias;  // [out]
    int64_t in, out;
};

struct Norm {
    const float *weight, *bias;  // [hidden]
};

struct Layer {
    Linear qkv, mix, up, down;
    Norm after_attention, after_feed_forward;
};

struct Encoder {
    const float *words, *positions;  // [vocabulary, hidden], [max tokens, hidden] with the one segment's vector added
    Norm embedded;
    const Layer* layers;
    int64_t num_layers, hidden, inner, num_heads;
    float eps;
    int32_t first_token_only;  // what stands for a text: its first token, or else the mean of its tokens
};

namespace {

// Activations as integers, [num_tokens, in], and what one unit of each token is worth.
struct Fixed {
    std::vector<int16_t> values;
    std::vector<float> units;

    void quantise(const float* x, int64_t t, int64_t size) {
        Floats tops = {};
        for (int64_t i = 0; i < size; i += W) tops = larger(absolute(load(x + i)), tops);
        const float top = largest(tops), scale = top > 0 ? ACTIVATION_LIMIT / top : 0;
        units[t] = top / ACTIVATION_LIMIT;
        int16_t* to = &values[t * size];
        for (int64_t i = 0; i < size; i += W)
            *(Shorts*)(to + i) = __builtin_convertvector(round(load(x + i) * scale), Shorts);
    }
};

template <int TOKENS>
inline void multiply(const int16_t* x, const float* units, const Linear& linear, int64_t panel, float* y) {
    const int64_t in = linear.in, first = panel * PANEL;
    const int16_t* weight = linear.weight + first * in;
    Ints total[TOKENS][2] = {};
    for (int64_t i = 0; i < in; i += 2, weight += 2 * PANEL) {
        __builtin_prefetch(weight + in * PANEL, 0, 3);
        const Ints left = *(const Ints*)weight, right = *(const Ints*)(weight + PANEL);
        UNROLL for (int t = 0; t < TOKENS; t++) {
            int32_t pair;
            std::memcpy(&pair, x + t * in + i, 4);
            Ints pairs = pair - Ints{};
            // Without this gcc loads all pairs first, and has no registers left for the sums.
            asm volatile("" : "+v"(pairs));
            total[t][0] = add_products(total[t][0], pairs, left);
            total[t][1] = add_products(total[t][1], pairs, right);
        }
    }
    UNROLL for (int t = 0; t < TOKENS; t++) UNROLL for (int v = 0; v < 2; v++) {
        const Floats scales = load(linear.scales + first + v * W) * units[t];
        const Floats products = __builtin_convertvector(total[t][v], Floats) * scales;
        store(y + t * linear.out + first + v * W, products + load(linear.bias + first + v * W));
    }
}

// y[t] = x[t] . weight + bias for a panel of outputs and tokens begin ... end - 1.
inline void multiply(const Fixed& x, int64_t begin, int64_t end, const Linear& linear, int64_t panel, float* y) {
    int64_t t = begin;
    auto run = [&](auto multiply, int64_t num_tokens) {
        multiply(&x.values[t * linear.in], &x.units[t], linear, panel, y + t * linear.out);
        t += num_tokens;
    };
    while (t + ROWS <= end) run(multiply<ROWS>, ROWS);
    while (t + 4 <= end) run(multiply<4>, 4);
    while (t + 2 <= end) run(multiply<2>, 2);
    while (t < end) run(multiply<1>, 1);
}

// out[t] = sum over k of x[t][k] * y[k], for TOKENS rows and PANEL columns.
template <int TOKENS>
inline void multiply(const float* x, int64_t x_step, const float* y, int64_t y_step, int64_t size, float* out,
                     int64_t out_step) {
    Floats total[TOKENS][2] = {};
    for (int64_t k = 0; k < size; k++) {
        const Floats left = load(y + k * y_step), right = load(y + k * y_step + W);
        UNROLL for (int t = 0; t < TOKENS; t++) {
            Floats factors = splat(x[t * x_step + k]);
            asm volatile("" : "+v"(factors));
            total[t][0] += factors * left;
            total[t][1] += factors * right;
        }
    }
    UNROLL for (int t = 0; t < TOKENS; t++) UNROLL for (int v = 0; v < 2; v++) {
        store(out + t * out_step + v * W, total[t][v]);
    }
}

// In place: scores -> exp(scale * (scores - max)), up to `step` with zeros; returns 1 / sum.
inline float soften(float* scores, int64_t size, int64_t step, float scale) {
    std::fill(scores + size, scores + step, -INFINITY);
    Floats tops = load(scores), total = {};
    for (int64_t i = W; i < step; i += W) tops = larger(load(scores + i), tops);
    const float top = largest(tops);
    for (int64_t i = 0; i < step; i += W) {
        const Floats share = exponential((load(scores + i) - top) * scale);
        store(scores + i, share);
        total += share;
    }
    std::fill(scores + size, scores + step, 0.0f);
    return 1.0f / sum(total);
}

// One head over one text: all its tokens see each other.
struct HeadAttention {
    const Encoder& encoder;
    std::vector<float> keys, values, scores;  // keys are transposed: [head_dim, step]; values: [size, head_dim]

    template <int TOKENS>
    void run(const float* queries, int64_t size, int64_t step, float* out) {
        const int64_t width = 3 * encoder.hidden, d = encoder.hidden / encoder.num_heads;
        for (int64_t i = 0; i < step; i += PANEL)
            multiply<TOKENS>(queries, width, &keys[i], step, d, &scores[i], step);
        float shares[TOKENS];
        for (int t = 0; t < TOKENS; t++) shares[t] = soften(&scores[t * step], size, step, 1.0f / std::sqrt(float(d)));
        for (int64_t i = 0; i < d; i += PANEL)
            multiply<TOKENS>(scores.data(), step, &values[i], d, size, out + i, encoder.hidden);
        for (int t = 0; t < TOKENS; t++)
            for (int64_t i = 0; i < d; i++) out[t * encoder.hidden + i] *= shares[t];
    }

    // qkv: the text's first token at this head's query; out: likewise.
    void run(const float* qkv, int64_t size, float* out) {
        const int64_t hidden = encoder.hidden, width = 3 * hidden, d = hidden / encoder.num_heads;
        const int64_t step = (size + PANEL - 1) / PANEL * PANEL;
        keys.assign(d * step, 0.0f);
        values.resize(size * d);
        scores.resize(ROWS * step);
        for (int64_t t = 0; t < size; t++) {
            const float* key = qkv + t * width + hidden;
            for (int64_t i = 0; i < d; i++) keys[i * step + t] = key[i];
            std::copy(key + hidden, key + hidden + d, &values[t * d]);
        }
        int64_t t = 0;
        for (; t + ROWS <= size; t += ROWS) run<ROWS>(qkv + t * width, size, step, out + t * hidden);
        for (; t + 2 <= size; t += 2) run<2>(qkv + t * width, size, step, out + t * hidden);
        for (; t < size; t++) run<1>(qkv + t * width, size, step, out + t * hidden);
    }
};

inline void normalise(float* x, const Norm& norm, int64_t size, float eps) {
    Floats total = {}, squares = {};
    for (int64_t i = 0; i < size; i += W) total += load(x + i);
    const float mean = sum(total) / float(size);
    for (int64_t i = 0; i < size; i += W) {
        const Floats centred = load(x + i) - mean;
        squares += centred * centred;
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / float(size) + eps);
    for (int64_t i = 0; i < size; i += W)
        store(x + i, (load(x + i) - mean) * scale * load(norm.weight + i) + load(norm.bias + i));
}

// The texts of one call: their tokens one after another, text n's being starts[n] ... starts[n + 1] - 1.
// The methods are called by a whole team of threads, who share their loops.
struct Pass {
    const Encoder& encoder;
    const int64_t* starts;
    int64_t num_texts, num_tokens = starts[num_texts];
    std::vector<float> x = std::vector<float>(num_tokens * encoder.hidden);
    std::vector<float> wide = std::vector<float>(num_tokens * std::max(3 * encoder.hidden, encoder.inner));
    std::vector<float> delta = std::vector<float>(num_tokens * encoder.hidden);
    Fixed narrow{std::vector<int16_t>(num_tokens * encoder.hidden), std::vector<float>(num_tokens)};
    Fixed broad{std::vector<int16_t>(num_tokens * encoder.inner), std::vector<float>(num_tokens)};

    void embed(const int32_t* ids) {
        const int64_t hidden = encoder.hidden;
#pragma omp for
        for (int64_t n = 0; n < num_texts; n++)
            for (int64_t t = starts[n]; t < starts[n + 1]; t++) {
                const float *word = encoder.words + ids[t] * hidden, *position = encoder.positions + (t - starts[n]) * hidden;
                for (int64_t i = 0; i < hidden; i += W) store(&x[t * hidden + i], load(word + i) + load(position + i));
                normalise(&x[t * hidden], encoder.embedded, hidden, encoder.eps);
                narrow.quantise(&x[t * hidden], t, hidden);
            }
    }

    void multiply_all(const Fixed& from, const Linear& linear, float* y) {
        const int64_t num_panels = linear.out / PANEL, num_blocks = (num_tokens + ROW_BLOCK - 1) / ROW_BLOCK;
#pragma omp for
        for (int64_t job = 0; job < num_blocks * num_panels; job++) {
            const int64_t begin = job / num_panels * ROW_BLOCK;
            multiply(from, begin, std::min(begin + ROW_BLOCK, num_tokens), linear, job % num_panels, y);
        }
    }

    void attend() {
        HeadAttention attention{encoder, {}, {}, {}};
        const int64_t hidden = encoder.hidden, d = hidden / encoder.num_heads;
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < num_texts * encoder.num_heads; job++) {
            const int64_t start = starts[job / encoder.num_heads], end = starts[job / encoder.num_heads + 1];
            const int64_t offset = job % encoder.num_heads * d;
            attention.run(&wide[start * 3 * hidden + offset], end - start, &delta[start * hidden + offset]);
        }
    }

    void activate() {
        const int64_t inner = encoder.inner;
#pragma omp for
        for (int64_t t = 0; t < num_tokens; t++) {
            float* row = &wide[t * inner];
            for (int64_t i = 0; i < inner; i += W) store(row + i, gelu(load(row + i)));
            broad.quantise(row, t, inner);
        }
    }

    void quantise_delta() {
#pragma omp for
        for (int64_t t = 0; t < num_tokens; t++) narrow.quantise(&delta[t * encoder.hidden], t, encoder.hidden);
    }

    void add_delta(const Norm& norm) {
        const int64_t hidden = encoder.hidden;
#pragma omp for
        for (int64_t t = 0; t < num_tokens; t++) {
            float* row = &x[t * hidden];
            for (int64_t i = 0; i < hidden; i += W) store(row + i, load(row + i) + load(&delta[t * hidden + i]));
            normalise(row, norm, hidden, encoder.eps);
            narrow.quantise(row, t, hidden);
        }
    }

    void run(const Layer& layer) {
        multiply_all(narrow, layer.qkv, wide.data());
        attend();
        quantise_delta();
        multiply_all(narrow, layer.mix, delta.data());
        add_delta(layer.after_attention);
        multiply_all(narrow, layer.up, wide.data());
        activate();
        multiply_all(broad, layer.down, delta.data());
        add_delta(layer.after_feed_forward);
    }

    // Unit vectors, [num_texts, hidden].
    void pool(float* out) const {
        const int64_t hidden = encoder.hidden;
#pragma omp for
        for (int64_t n = 0; n < num_texts; n++) {
            float* vector = out + n * hidden;
            const int64_t end = encoder.first_token_only ? starts[n] + 1 : starts[n + 1];
            std::fill(vector, vector + hidden, 0.0f);
            Floats squares = {};
            for (int64_t i = 0; i < hidden; i += W) {
                Floats total = {};
                for (int64_t t = starts[n]; t < end; t++) total += load(&x[t * hidden + i]);
                store(vector + i, total);
                squares += total * total;
            }
            const float length = std::sqrt(sum(squares));
            for (int64_t i = 0; i < hidden; i++) vector[i] /= length;
        }
    }
};

}  // namespace

extern "C" void encode(const Encoder* encoder, const int32_t* ids, const int64_t* starts, int64_t num_texts, float* out,
                       int num_threads) {
    Pass pass{*encoder, starts, num_texts};
#pragma omp parallel num_threads(num_threads)
    {
        pass.embed(ids);
        for (int64_t l = 0; l < encoder->num_layers; l++) pass.run(encoder->layers[l]);
        pass.pool(out);
    }
}

extern "C" int panel_width() { return PANEL; }
