//! Which passages a question wants: by the attention that a few heads would pay, and by the words it shares with them.
//!
//! A search head's query, less the head's mean query, looks for entries; a softmax over what it finds divides the attention of one
//! token among chunks. The first passage is the chunk with the largest geometric mean over heads of the mean over tokens: a chunk
//! that several heads agree on comes before one that a single head is sure of. Likeness of words (BM25, relative to the best) is
//! one more factor. Further passages are those that cover what the tokens ask for beyond the passages before them: a question
//! about two things gets a passage for each, and a question about one is not shown things that merely look like it. A passage that has the
//! words of the first is shown too: it may say something later about the same; and so is, before all others, one that shares as much with the question and
//! adds words, whatever attention it gets.
//!
//! The mean query is subtracted because it points at what every query attends to (the first tokens of a document); a mean of
//! keys needs no subtraction, it changes no rank.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use mnemon_memory::{ChunkId, ChunkInfo, Hit, Recall, SearchRequest, TermRequest};

use super::silence::Weighed;
use super::{Attended, Cut, PassageOptions};
use crate::error::Result;
use crate::profile::{Profile, SearchHead};

/// Entries that each query looks for.
const ENTRIES: usize = 32;
/// Chunks that are looked at closely.
const CANDIDATES: usize = 64;
/// A further passage covers at least this share of what the first one does: on development questions about two facts the second passage
/// had 0.17 to 0.87, what merely looked like one fact at most 0.13.
const GAIN_SHARE: f32 = 0.15;
/// The words that it adds weigh at least this multiple of the logarithm of the number of chunks: less may be chance (see `silence`).
const GAIN_WEIGHT: f64 = 0.9;
/// A passage that covers nothing more is shown if it has the words that the first one shares with the question, but for this part of their weight:
/// it may say something else about the same, a later value, say. So of several the last is.
const RIVAL_LACKS: f64 = 0.2;
/// At least this part of their weight stands in its own chunk; the rest may stand beyond its border.
const RIVAL_HAS: f64 = 0.5;
/// A chunk that shares with the question at least this part of what the first passage does, and adds words to it, is shown whatever attention it
/// gets: two names made of parts that stand in other names are covered, part by part, by what is about neither.
const PEER_SHARE: f64 = 0.8;
/// What is said may go on across the border of two chunks: words are looked for so many tokens beyond.
const BORDER_TOKENS: usize = 16;
/// Of so many of the best, as of those that cover most.
const RIVALS: usize = 16;
/// Tokens of memory that are scanned for each question unless it says how broad a walk it wants: queries without their mean lie far from all
/// keys, so that a walk misses most of what they look for (1 of 9 facts answered out of 261,594 tokens, 9 by a scan).
const SCAN_TOKENS: u64 = 16 << 20;
/// Breadth of the walk through more.
const WALK_EF: usize = 4096;
/// Chunks that words propose.
const TERM_CHUNKS: usize = 64;
/// What a head gives to a chunk that is not among its best, and words to one that is not among theirs: keeps one missing factor from
/// deciding.
const SHARE_FLOOR: f32 = 1e-4;
const LIKENESS_FLOOR: f32 = 0.1;
/// BM25's usual constants (Robertson and Zaragoza 2009, section 3.2).
const K1: f32 = 1.2;
const B: f32 = 0.75;

/// Consecutive chunks of one document.
#[derive(Debug, Clone, PartialEq)]
pub struct Passage {
    /// In document order.
    pub chunks: Vec<ChunkInfo>,
    /// The chunk that was found.
    pub found: ChunkId,
    /// The chunks among them whose sentences are shown, in document order; the others may complete these.
    pub(crate) core: Vec<ChunkId>,
    /// What of them the question's tokens attend to.
    pub(crate) attended: Vec<Attended>,
    /// What is left out of the first chunk, at its start.
    pub start: Cut,
    /// What is left out of the last chunk, at its end.
    pub end: Cut,
    /// Its score, above 0: larger is better.
    pub score: f32,
}

impl Passage {
    /// Whether a chunk is part of it.
    pub fn holds(&self, chunk: ChunkId) -> bool {
        self.chunks.iter().any(|info| info.id == chunk)
    }

    /// What is left out of the chunk at `place`, at its start and at its end.
    pub fn cuts(&self, place: usize) -> [Cut; 2] {
        let start = if place == 0 { self.start } else { Cut::default() };
        let end = if place + 1 == self.chunks.len() { self.end } else { Cut::default() };
        [start, end]
    }

    /// Where the tokens of the chunk at `place` are that are shown.
    pub(super) fn shown(&self, place: usize) -> Range<usize> {
        let len = self.chunks.get(place).map_or(0, |info| info.tokens.len());
        let [start, end] = self.cuts(place);
        let first = start.tokens.min(len);
        first..len.saturating_sub(end.tokens).max(first)
    }

    /// The tokens of the chunk at `place` that are shown.
    pub(super) fn shown_tokens(&self, place: usize) -> &[u32] {
        self.chunks.get(place).and_then(|info| info.tokens.get(self.shown(place))).unwrap_or_default()
    }
}

/// What is selected by.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// Queries of the profile's search heads for each token that asks, before rotary encoding,
    /// `[tokens, profile.search.len(), head_dim]`.
    pub queries: &'a [f32],
    /// The word of each of these tokens, as the tokens that stand for it; empty where it stands for none.
    pub words: &'a [Vec<u32>],
    /// Pieces of words that ask, each once, as the tokens that stand for each.
    pub terms: &'a [Vec<u32>],
    /// Whole words, as the places of their pieces among the terms.
    pub term_words: &'a [Vec<usize>],
    /// Query heads to a key head.
    pub group: usize,
}

/// What was selected.
#[derive(Debug)]
pub struct Selected<'a> {
    /// Best first, at least one if anything is found; none has a chunk of another.
    pub passages: Vec<Passage>,
    /// What the words that ask weigh in this memory.
    pub(super) weighed: Weighed<'a>,
}

/// The passages that a question wants.
pub fn select<'a>(
    recall: &dyn Recall,
    profile: &Profile,
    selection: &Selection<'a>,
    options: &PassageOptions,
) -> Result<Selected<'a>> {
    let wanted = options.passages.unwrap_or(profile.passages);
    let neighbours = options.neighbours.unwrap_or(profile.neighbours);
    let attention = Attention::search(recall, profile, selection, options)?;
    let (likeness, chunks_with) = likeness(recall, profile, selection)?;
    let ranked = rank(profile, attention.as_ref(), &likeness);
    let shares = attention.as_ref().map(|attention| attention.by_token(&ranked));
    let mut passages: Vec<Passage> = Vec::with_capacity(wanted);
    let mut covered = shares.as_ref().map_or_else(Vec::new, |shares| vec![0.0; shares.tokens]);
    let mut first_gain = 0.0;
    let weighed = Weighed::new(selection.terms, selection.term_words, &chunks_with, recall.len());
    // The chunk with its neighbours, in document order.
    let around = |chunk: ChunkId| -> Result<Vec<ChunkInfo>> {
        let ids = recall.neighbours(&[chunk], neighbours, neighbours)?.pop().unwrap_or_default();
        Ok(recall.describe(&ids)?)
    };
    for _ in 0..wanted {
        let is_free = |chunk: &ChunkId| !passages.iter().any(|passage| passage.core.contains(chunk));
        let mut free = ranked.iter().filter(|(chunk, _)| is_free(chunk)).copied();
        let next = match (&shares, passages.first()) {
            (Some(shares), Some(first)) => {
                let gains = free.by_ref().map(|(chunk, score)| (chunk, score, shares.gain(chunk, &covered)));
                let mut covering: Vec<(ChunkId, f32, f32)> =
                    gains.filter(|(.., gain)| *gain > GAIN_SHARE * first_gain).collect();
                // Among equals the better ranked one.
                covering.sort_by(|(.., a), (.., b)| b.total_cmp(a));
                let covering: Vec<(ChunkId, f32)> =
                    covering.into_iter().take(RIVALS).map(|(chunk, score, _)| (chunk, score)).collect();
                let best: Vec<(ChunkId, f32)> =
                    ranked.iter().take(RIVALS).filter(|(chunk, _)| is_free(chunk)).copied().collect();
                let known: BTreeSet<usize> = passages
                    .iter()
                    .flat_map(|passage| Words::of(&weighed, passage.chunks.iter(), &passage.core, &[]).own)
                    .collect();
                let of_first = Words::of(&weighed, first.chunks.iter(), &[first.found], &[]).near;
                let shown: Vec<ChunkId> = passages.iter().flat_map(|passage| passage.core.iter().copied()).collect();
                let words = Candidates::of(recall, &weighed, best.iter().chain(&covering), &shown)?;
                let adds = |words: &Words| adds_words(&weighed, &known, &words.own);
                let is_like_first =
                    |words: &Words| weighed.weight(&words.near) >= PEER_SHARE * weighed.weight(&of_first);
                let peer = words.that(&best, |words| !weighed.is_empty() && is_like_first(words) && adds(words)).next();
                let covering = || words.that(&covering, adds).next();
                let rivals = || words.that(&best, |words| is_rival(&weighed, &of_first, words));
                let last_rival = || rivals().max_by_key(|(chunk, _)| *chunk);
                peer.or_else(covering).or_else(last_rival)
            }
            (Some(_), None) if !weighed.is_empty() => {
                let best: Vec<(ChunkId, f32)> = free.by_ref().take(RIVALS).collect();
                most_telling(recall, &weighed, &best)?
            }
            // Without attention nothing more is asked.
            _ => free.next(),
        };
        let Some((found, passage_score)) = next else { break };
        if let (Some(shares), true) = (&shares, passages.is_empty()) {
            first_gain = shares.gain(found, &covered);
        }
        let chunks = around(found)?;
        let core: Vec<ChunkId> =
            if options.neighbours.is_some() { chunks.iter().map(|info| info.id).collect() } else { vec![found] };
        if let Some(shares) = &shares {
            for chunk in core.iter().filter(|chunk| is_free(chunk)) {
                shares.cover(*chunk, &mut covered);
            }
            cover_words(chunks.iter().filter(|info| core.contains(&info.id)), selection.words, &mut covered);
        }
        add(&mut passages, found, core, chunks, passage_score);
    }
    if let Some(attention) = &attention {
        attention.divide(&mut passages);
    }
    Ok(Selected { passages, weighed })
}

/// Adds the chunks around what was found, those of `core` to be shown; a passage that has this chunk as a neighbour grows.
pub(super) fn add(
    passages: &mut Vec<Passage>,
    found: ChunkId,
    core: Vec<ChunkId>,
    mut chunks: Vec<ChunkInfo>,
    score: f32,
) {
    let beside = passages.iter().position(|passage| passage.holds(found));
    chunks
        .retain(|info| !passages.iter().enumerate().any(|(at, passage)| Some(at) != beside && passage.holds(info.id)));
    if let Some(passage) = beside.and_then(|at| passages.get_mut(at)) {
        // It was a neighbour: the passage grows. Identifiers ascend within a document.
        passage.chunks.extend(chunks);
        passage.chunks.sort_unstable_by_key(|info| info.id);
        passage.chunks.dedup_by_key(|info| info.id);
        passage.core.extend(core);
        passage.core.sort_unstable();
        passage.core.dedup();
    } else {
        let core = core.into_iter().filter(|chunk| chunks.iter().any(|info| info.id == *chunk)).collect();
        let (start, end) = (Cut::default(), Cut::default());
        passages.push(Passage { chunks, found, core, attended: Vec::new(), start, end, score });
    }
}

/// Whether the words that a chunk has, and that are not known from passages before it, weigh enough for another passage; where words do not
/// count, always.
fn adds_words(weighed: &Weighed<'_>, known: &BTreeSet<usize>, has: &BTreeSet<usize>) -> bool {
    weighed.is_empty() || weighed.exceeds_luck(weighed.weight(has.difference(known)), GAIN_WEIGHT)
}

/// Whether a chunk has most of the words that a passage shares with the question, a part of them itself, if they tell anything.
fn is_rival(weighed: &Weighed<'_>, shared: &BTreeSet<usize>, words: &Words) -> bool {
    let all = weighed.weight(shared);
    !shared.is_empty()
        && weighed.tell(shared, 1)
        && weighed.weight(shared.difference(&words.near)) <= RIVAL_LACKS * all
        && weighed.weight(shared.intersection(&words.own)) >= RIVAL_HAS * all
}

/// The words of a question that chunks have.
struct Words {
    /// In whole or in part: names stand across borders.
    own: BTreeSet<usize>,
    /// Those too that stand beyond a border, but near it: what is said goes on there.
    near: BTreeSet<usize>,
}

impl Words {
    /// Those of the chunks of `core`, out of consecutive `chunks` in document order; nothing stands near that is `shown` already.
    fn of<'c>(
        weighed: &Weighed<'_>,
        chunks: impl Iterator<Item = &'c ChunkInfo>,
        core: &[ChunkId],
        shown: &[ChunkId],
    ) -> Self {
        let is_core = |info: Option<&&ChunkInfo>| info.is_some_and(|info| core.contains(&info.id));
        let chunks: Vec<&ChunkInfo> = chunks.collect();
        let (mut within, mut beyond) = (HashSet::new(), HashSet::new());
        for (at, info) in chunks.iter().enumerate() {
            if is_core(Some(info)) {
                within.extend(info.tokens.iter().copied());
            } else if !shown.contains(&info.id) {
                let border = info.tokens.len().min(BORDER_TOKENS);
                if is_core(at.checked_sub(1).and_then(|before| chunks.get(before))) {
                    beyond.extend(&info.tokens[..border]);
                }
                if is_core(chunks.get(at + 1)) {
                    beyond.extend(&info.tokens[info.tokens.len() - border..]);
                }
            }
        }
        let own = weighed.within_or_across(&within, &beyond);
        Self { own, near: weighed.within(&within.union(&beyond).copied().collect()) }
    }
}

/// The words of chunks that may be shown.
struct Candidates(HashMap<ChunkId, Words>);

impl Candidates {
    fn of<'c>(
        recall: &dyn Recall,
        weighed: &Weighed<'_>,
        chunks: impl Iterator<Item = &'c (ChunkId, f32)>,
        shown: &[ChunkId],
    ) -> Result<Self> {
        let chunks: Vec<ChunkId> = chunks.map(|(chunk, _)| *chunk).collect::<BTreeSet<_>>().into_iter().collect();
        let around = recall.neighbours(&chunks, 1, 1)?;
        let all: Vec<ChunkId> = around.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let infos: HashMap<ChunkId, ChunkInfo> =
            recall.describe(&all)?.into_iter().map(|info| (info.id, info)).collect();
        let words = chunks.into_iter().zip(around).map(|(chunk, around)| {
            let around = around.iter().filter_map(|id| infos.get(id));
            (chunk, Words::of(weighed, around, &[chunk], shown))
        });
        Ok(Self(words.collect()))
    }

    /// Those of these chunks whose words are as they should be.
    fn that(
        &self,
        chunks: &[(ChunkId, f32)],
        is_right: impl Fn(&Words) -> bool,
    ) -> impl Iterator<Item = (ChunkId, f32)> {
        chunks.iter().filter(move |(chunk, _)| self.0.get(chunk).is_some_and(&is_right)).copied()
    }
}

/// The best of these chunks; or, if chance may share its words, the best one that has all of them and so much more that it is none: "When does
/// the Drissa ferry leave?" finds the camp of Drissa first.
fn most_telling(recall: &dyn Recall, weighed: &Weighed<'_>, best: &[(ChunkId, f32)]) -> Result<Option<(ChunkId, f32)>> {
    let first = best.first().copied();
    let words_of = |chunks: &[(ChunkId, f32)]| Candidates::of(recall, weighed, chunks.iter(), &[]);
    // Mostly it tells, and no other has to be looked at.
    let Some(has) = words_of(first.as_slice())?.0.into_values().next() else { return Ok(first) };
    if weighed.tell(&has.own, 1) {
        return Ok(first);
    }
    let tells = |words: &Words| words.own.is_superset(&has.own) && weighed.tell(&words.own, 1);
    Ok(words_of(best)?.that(best, tells).next().or(first))
}

/// Tokens of a memory at most.
fn tokens_of(recall: &dyn Recall) -> u64 {
    recall.len().saturating_mul(u64::from(recall.geometry().chunk_tokens))
}

/// A token whose word stands in a passage asks for nothing more, though its attention is divided among other places with that word.
fn cover_words<'a>(core: impl Iterator<Item = &'a ChunkInfo>, words: &[Vec<u32>], covered: &mut [f32]) {
    let shown: HashSet<u32> = core.flat_map(|info| info.tokens.iter().copied()).collect();
    for (covered, word) in covered.iter_mut().zip(words) {
        if word.iter().any(|token| shown.contains(token)) {
            *covered = 1.0;
        }
    }
}

/// Scores of chunks, best first.
pub(super) fn rank(
    profile: &Profile,
    attention: Option<&Attention>,
    likeness: &HashMap<ChunkId, f32>,
) -> Vec<(ChunkId, f32)> {
    let means = attention.map(Attention::means).unwrap_or_default();
    let found: HashSet<ChunkId> =
        means.iter().flat_map(|head| head.shares.keys()).chain(likeness.keys()).copied().collect();
    let weights: f32 = means.iter().map(|head| head.weight).sum();
    let score = |chunk: ChunkId| {
        let of = |values: &HashMap<ChunkId, f32>| values.get(&chunk).copied().unwrap_or(0.0);
        let heads: f32 = means.iter().map(|head| head.weight * (of(&head.shares) + SHARE_FLOOR).ln()).sum();
        let words = (of(likeness) + LIKENESS_FLOOR).ln();
        profile.attention_weight * heads / weights.max(f32::MIN_POSITIVE) + profile.lexical_weight * words
    };
    let mut ranked: Vec<(ChunkId, f32)> = found.into_iter().map(|chunk| (chunk, score(chunk).exp())).collect();
    ranked.sort_unstable_by(|(a, a_score), (b, b_score)| b_score.total_cmp(a_score).then(a.cmp(b)));
    ranked.truncate(CANDIDATES);
    ranked
}

/// What the search heads found.
pub(super) struct Attention {
    /// Weight of each head.
    weights: Vec<f32>,
    tokens: usize,
    /// Entries of each token and head, `[tokens * heads]`.
    hits: Vec<Vec<Hit>>,
    scale: f32,
}

/// Mean shares of the attention of one search head.
struct HeadShares {
    weight: f32,
    /// 0 to 1; the sum is at most 1.
    shares: HashMap<ChunkId, f32>,
}

/// Shares of the attention of each token, geometric mean over heads.
struct TokenShares {
    tokens: usize,
    /// `[tokens]` for each candidate.
    shares: HashMap<ChunkId, Vec<f32>>,
}

impl Attention {
    /// Looks for what the question's tokens attend to; `None` when no head of the profile has entries here, or nothing asks.
    pub(super) fn search(
        recall: &dyn Recall,
        profile: &Profile,
        selection: &Selection<'_>,
        options: &PassageOptions,
    ) -> Result<Option<Self>> {
        let dim = recall.geometry().head_dim as usize;
        // Heads for which the memory has entries: their places in the profile, and their key heads.
        let key_head = |(at, head): (usize, &SearchHead)| {
            Some((at, recall.geometry().key_head_index(head.query.key_head(selection.group))?))
        };
        let (places, key_heads): (Vec<usize>, Vec<usize>) =
            profile.search.iter().enumerate().filter_map(key_head).unzip();
        let row = profile.search.len() * dim;
        let tokens = selection.queries.len() / row.max(1);
        if places.is_empty() || tokens == 0 || profile.attention_weight <= 0.0 {
            return Ok(None);
        }
        let mut queries = Vec::with_capacity(tokens * places.len() * dim);
        for token in selection.queries.chunks_exact(row) {
            for &at in &places {
                let query = &token[at * dim..(at + 1) * dim];
                queries.extend(query.iter().zip(&profile.search[at].mean).map(|(value, mean)| value - mean));
            }
        }
        let request = SearchRequest {
            key_heads: &key_heads,
            queries: &queries,
            top_k: ENTRIES,
            ef: options.ef.or(Some(WALK_EF)),
            exact: options.exact || options.ef.is_none() && tokens_of(recall) <= SCAN_TOKENS,
        };
        Ok(Some(Self {
            weights: places.iter().map(|&at| profile.search[at].weight).collect(),
            tokens,
            hits: recall.search(&request)?,
            scale: (dim as f32).sqrt().recip(),
        }))
    }

    /// Calls `each` with token, head, and each of their entries with its share of the attention.
    fn for_each(&self, mut each: impl FnMut(usize, usize, &Hit, f32)) {
        let heads = self.weights.len();
        for (index, hits) in self.hits.iter().enumerate() {
            let largest = hits.iter().map(|hit| hit.score).fold(f32::NEG_INFINITY, f32::max);
            let part = |hit: &Hit| f32::from(hit.len.max(1)) * (self.scale * (hit.score - largest)).exp();
            let total: f32 = hits.iter().map(part).sum();
            for hit in hits {
                each(index / heads, index % heads, hit, part(hit) / total);
            }
        }
    }

    fn means(&self) -> Vec<HeadShares> {
        let mut means: Vec<HeadShares> =
            self.weights.iter().map(|&weight| HeadShares { weight, shares: HashMap::new() }).collect();
        self.for_each(|_, head, hit, share| {
            *means[head].shares.entry(hit.chunk).or_default() += share / self.tokens as f32;
        });
        means
    }

    fn by_token(&self, candidates: &[(ChunkId, f32)]) -> TokenShares {
        let heads = self.weights.len();
        let mut sums: HashMap<ChunkId, Vec<f32>> =
            candidates.iter().map(|(chunk, _)| (*chunk, vec![0.0; self.tokens * heads])).collect();
        self.for_each(|token, head, hit, share| {
            if let Some(sums) = sums.get_mut(&hit.chunk) {
                sums[token * heads + head] += share;
            }
        });
        let total: f32 = self.weights.iter().sum();
        let geometric = |shares: &[f32]| {
            let logs = shares.iter().zip(&self.weights).map(|(share, weight)| weight * (share + SHARE_FLOOR).ln());
            (logs.sum::<f32>() / total.max(f32::MIN_POSITIVE)).exp()
        };
        let shares = sums.into_iter().map(|(chunk, sums)| (chunk, sums.chunks_exact(heads).map(geometric).collect()));
        TokenShares { tokens: self.tokens, shares: shares.collect() }
    }

    /// Gives each passage the attention that the entries of its chunks get, in one pass over all entries.
    fn divide(&self, passages: &mut [Passage]) {
        self.for_each(|_, head, hit, share| {
            if let Some(passage) = passages.iter_mut().find(|passage| passage.holds(hit.chunk)) {
                let mass = self.weights[head] * share;
                passage.attended.push(Attended { chunk: hit.chunk, token: usize::from(hit.start), mass });
            }
        });
    }
}

impl TokenShares {
    /// What a chunk adds to what is covered, summed over tokens but the one that gains most: a single word that stands elsewhere too is
    /// not another thing asked about.
    fn gain(&self, chunk: ChunkId, covered: &[f32]) -> f32 {
        let shares = self.shares.get(&chunk).map_or(&[][..], Vec::as_slice);
        let gains = shares.iter().zip(covered).map(|(share, covered)| (share - covered).max(0.0));
        let (sum, most) = gains.fold((0.0, 0.0_f32), |(sum, most), gain| (sum + gain, most.max(gain)));
        sum - most
    }

    fn cover(&self, chunk: ChunkId, covered: &mut [f32]) {
        let shares = self.shares.get(&chunk).map_or(&[][..], Vec::as_slice);
        covered.iter_mut().zip(shares).for_each(|(covered, share)| *covered = covered.max(*share));
    }
}

/// Likeness of words, 0 to 1, and in how many chunks each term occurs.
pub(super) fn likeness(
    recall: &dyn Recall,
    profile: &Profile,
    selection: &Selection<'_>,
) -> Result<(HashMap<ChunkId, f32>, Vec<u64>)> {
    if profile.lexical_weight <= 0.0 || selection.terms.is_empty() {
        return Ok((HashMap::new(), Vec::new()));
    }
    let request = TermRequest { terms: selection.terms, top_k: TERM_CHUNKS, k1: K1, b: B };
    let found = recall.search_terms(&request)?;
    let best = found.hits.first().map_or(0.0, |hit| hit.score).max(f32::MIN_POSITIVE);
    Ok((found.hits.into_iter().map(|hit| (hit.chunk, hit.score / best)).collect(), found.chunks_with))
}
