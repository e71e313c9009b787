//! Cases, and what it means to agree.

use half::{bf16, f16};
use mnemon_kernels::{
    AttentionOutput, AttentionShape, Data, Isa, LogitRule, Mask, Result, Segment, attention, attention_with, reference,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Storage {
    F32,
    F16,
    Bf16,
}

/// One segment of a case.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) len: usize,
    pub(crate) mask: Mask,
    /// Of head 0; head `h` has `scale * (1 + h / 8)`.
    pub(crate) scale: f32,
    /// Likewise.
    pub(crate) bias: Option<f32>,
    /// Likewise.
    pub(crate) slope: Option<f32>,
    /// Parts with the same seed share one buffer of queries.
    pub(crate) seed_of_queries: u64,
}

impl Part {
    pub(crate) fn plain(len: usize) -> Self {
        Self { len, mask: Mask::All, scale: 0.3, bias: None, slope: None, seed_of_queries: 0 }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) n_queries: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) storage: Storage,
    pub(crate) nan_in_last_head: bool,
    pub(crate) parts: Vec<Part>,
}

impl Case {
    pub(crate) fn new(parts: Vec<Part>) -> Self {
        let (n_queries, n_heads, n_kv_heads, head_dim) = (3, 4, 2, 32);
        Self { n_queries, n_heads, n_kv_heads, head_dim, storage: Storage::F32, nan_in_last_head: false, parts }
    }

    pub(crate) fn shape(&self) -> AttentionShape {
        let Self { n_queries, n_heads, n_kv_heads, head_dim, .. } = *self;
        AttentionShape { n_queries, n_heads, n_kv_heads, head_dim }
    }
}

/// Owned numbers of a storage type.
pub(crate) enum Stored {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Stored {
    pub(crate) fn new(values: &[f32], storage: Storage) -> Self {
        match storage {
            Storage::F32 => Self::F32(values.to_vec()),
            Storage::F16 => Self::F16(values.iter().map(|&x| f16::from_f32(x)).collect()),
            Storage::Bf16 => Self::Bf16(values.iter().map(|&x| bf16::from_f32(x)).collect()),
        }
    }

    pub(crate) fn data(&self) -> Data<'_> {
        match self {
            Self::F32(values) => Data::F32(values),
            Self::F16(values) => Data::F16(values),
            Self::Bf16(values) => Data::Bf16(values),
        }
    }
}

pub(crate) fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

type Attention = fn(Isa, AttentionShape, &[Segment<'_>]) -> Result<AttentionOutput>;

/// Everything that claims to be attention; a row here puts it under all tests. The second takes an instruction set and is
/// run with each that the processor has.
pub(crate) const IMPLEMENTATIONS: [(&str, bool, Attention); 2] =
    [("default", false, |_, shape, segments| attention(shape, segments)), ("cpu", true, attention_with)];

struct Buffers {
    queries: Vec<Vec<f32>>,
    keys: Vec<Stored>,
    values: Vec<Stored>,
    scales: Vec<Vec<f32>>,
    biases: Vec<Option<Vec<f32>>>,
    slopes: Vec<Option<Vec<f32>>>,
}

impl Buffers {
    fn new(case: &Case) -> Self {
        let kv = |seed: u64, len: usize| {
            let mut numbers = numbers(seed, case.n_kv_heads * len * case.head_dim);
            if case.nan_in_last_head
                && let Some(last) = numbers.last_mut()
            {
                *last = f32::NAN;
            }
            Stored::new(&numbers, case.storage)
        };
        let per_head = |x: f32| (0..case.n_heads).map(|h| x * (1.0 + h as f32 / 8.0)).collect::<Vec<f32>>();
        let n_seeds = case.parts.iter().map(|part| part.seed_of_queries + 1).max().unwrap_or(0);
        let n_queries = case.n_heads * case.n_queries * case.head_dim;
        Self {
            queries: (0..n_seeds).map(|seed| numbers(seed, n_queries)).collect(),
            keys: case.parts.iter().zip(100..).map(|(part, seed)| kv(seed, part.len)).collect(),
            // A NaN belongs to one key's logit; values stay finite.
            values: {
                let finite =
                    |seed, len| Stored::new(&numbers(seed, case.n_kv_heads * len * case.head_dim), case.storage);
                case.parts.iter().zip(1000..).map(|(part, seed)| finite(seed, part.len)).collect()
            },
            scales: case.parts.iter().map(|part| per_head(part.scale)).collect(),
            biases: case.parts.iter().map(|part| part.bias.map(per_head)).collect(),
            slopes: case.parts.iter().map(|part| part.slope.map(per_head)).collect(),
        }
    }

    fn segments<'a>(&'a self, case: &Case) -> Vec<Segment<'a>> {
        case.parts
            .iter()
            .enumerate()
            .map(|(i, part)| Segment {
                queries: &self.queries[part.seed_of_queries as usize],
                keys: self.keys[i].data(),
                values: self.values[i].data(),
                len: part.len,
                mask: part.mask,
                logits: LogitRule {
                    scale: &self.scales[i],
                    bias: self.biases[i].as_deref(),
                    slope: self.slopes[i].as_deref(),
                },
            })
            .collect()
    }

    /// Largest logit that f32 rounding can act on, without bias: products are of numbers below one.
    fn largest_product(&self, case: &Case) -> f32 {
        self.scales.iter().flatten().fold(0.0_f32, |max, scale| max.max(scale.abs())) * case.head_dim as f32
    }

    /// Largest finite bias, and largest loss by distance; no case has a distance above a few hundred.
    fn largest_offset(&self) -> f32 {
        let largest = |values: &[Option<Vec<f32>>]| {
            let finite = values.iter().flatten().flatten().filter(|value| value.is_finite());
            finite.fold(0.0_f32, |max, value| max.max(value.abs()))
        };
        largest(&self.biases) + 300.0 * largest(&self.slopes)
    }
}

/// Runs `check` with the output of every implementation.
pub(crate) fn for_each_implementation(case: &Case, check: impl Fn(&str, &AttentionOutput)) {
    let buffers = Buffers::new(case);
    let segments = buffers.segments(case);
    each_output(case, &segments, check);
}

fn each_output(case: &Case, segments: &[Segment<'_>], check: impl Fn(&str, &AttentionOutput)) {
    for (name, takes_isa, attention) in IMPLEMENTATIONS {
        let isas = if takes_isa { Isa::available() } else { vec![Isa::detect()] };
        for isa in isas {
            let output = attention(isa, case.shape(), segments).expect("a valid case");
            check(&format!("{name} with {isa:?}"), &output);
        }
    }
}

/// Every implementation gives what the reference gives, to within `1e-5 * (1 + l)` absolutely plus `1e-5` relatively. `l`
/// is the largest logit possible: a logit in f32 has an error proportional to it, which becomes a relative error of the
/// weights. A bias rounds the logarithms only, but also the comparison of segments.
pub(crate) fn assert_agrees(case: &Case) {
    let buffers = Buffers::new(case);
    let segments = buffers.segments(case);
    let expected = reference::attention(case.shape(), &segments).expect("a valid case");
    let tolerance = 1e-5 * (1.0 + buffers.largest_product(case) * 0.1 + buffers.largest_offset() * 0.1);
    each_output(case, &segments, |name, output| {
        assert_close(&output.context, &expected.context, tolerance, &format!("context of {name}, {case:?}"));
        assert_close(
            &output.segment_lse,
            &expected.segment_lse,
            tolerance,
            &format!("segment_lse of {name}, {case:?}"),
        );
        assert_close(&output.lse, &expected.lse, tolerance, &format!("lse of {name}, {case:?}"));
    });
}

/// One attention over the parts is one attention over a single segment made of them.
pub(crate) fn assert_segments_equal_concatenation(case: &Case) {
    let buffers = Buffers::new(case);
    let segments = buffers.segments(case);
    let len = case.parts.iter().map(|part| part.len).sum();
    let join = |of: fn(&Segment<'_>) -> Vec<f32>| {
        let parts: Vec<(Vec<f32>, usize)> = segments.iter().map(|s| (of(s), s.len * case.head_dim)).collect();
        let heads = 0..case.n_kv_heads;
        heads
            .flat_map(|head| parts.iter().flat_map(move |(p, n)| p[head * n..(head + 1) * n].to_vec()))
            .collect::<Vec<f32>>()
    };
    let (keys, values) = (join(|s| floats(s.keys)), join(|s| floats(s.values)));
    let whole = Segment { keys: Data::F32(&keys), values: Data::F32(&values), len, ..segments[0] };
    each_output(case, &segments, |name, apart| {
        each_output(case, &[whole], |other, together| {
            let names = format!("{name} apart, {other} together");
            assert_close(&apart.context, &together.context, 1e-5, &names);
            assert_close(&apart.lse, &together.lse, 1e-5, &names);
        });
        // And the parts' masses add up to all of it.
        let rows = apart.lse.len();
        for row in 0..rows {
            let masses = apart.segment_lse.iter().skip(row).step_by(rows).map(|lse| (lse - apart.lse[row]).exp());
            assert_close(&[masses.sum()], &[1.0], 1e-5, name);
        }
    });
}

fn floats(data: Data<'_>) -> Vec<f32> {
    match data {
        Data::F32(data) => data.to_vec(),
        Data::F16(data) => data.iter().map(|x| x.to_f32()).collect(),
        Data::Bf16(data) => data.iter().map(|x| x.to_f32()).collect(),
    }
}

/// `|got - expected| <= absolute + 1e-5 * |expected|`; infinities and NaN have to match.
pub(crate) fn assert_close(got: &[f32], expected: &[f32], absolute: f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let same = got == expected || (got.is_nan() && expected.is_nan());
        let close = (got - expected).abs() <= absolute + 1e-5 * expected.abs();
        assert!(same || close, "{what}: value {i} is {got}, expected {expected} within {absolute}");
    }
}
