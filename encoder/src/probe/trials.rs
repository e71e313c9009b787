//! Which ways of using passages lead to right answers.

use std::sync::Arc;

use mnemon_memory::{
    ChunkId, ChunkInfo, ChunkKv, Hit, KvGeometry, Recall, Result as MemoryResult, SearchRequest, TermHits, TermRequest,
    WordHits, WordRequest,
};
use mnemon_runtime::{
    Error, Extent, Extents, GenerateOptions, GenerateStep, Generation, MemoryFrom, Passage, PassageOptions,
    PassagesFrom, Profile, RecallMode, Select, Trial,
};

use super::{ProbeStage, Probed, ask};
use crate::error::Result;

/// Tokens of an answer.
const ANSWER_TOKENS: usize = 32;
/// What costs more has to be better by this share of the answers to be preferred.
const MARGIN: f32 = 0.1;
/// Share of the layers at the lower and the upper end that memories may do without.
const TRIMMED_SHARE: usize = 12;

/// Tries them, and puts what is best, and what was measured, into `profile`.
pub(super) fn choose(
    probed: &Probed,
    profile: &mut Profile,
    answered: usize,
    tell: &mut dyn FnMut(ProbeStage),
) -> Result<()> {
    let layers = probed.model.config().layers as u32;
    let trimmed = layers / TRIMMED_SHARE as u32;
    let questions = answered.clamp(1, probed.facts.len());
    // One fact in both modes and extents, two facts in both modes, fewer layers, and no memory.
    let ways = 2 * 2 + 2 + 2;
    let mut done = 0;
    let mut run = |profile: &Profile, mode: Option<RecallMode>, asked: usize, kept: [u32; 2]| -> Result<[f32; 3]> {
        let mut right = [0_usize; 3];
        for index in 0..questions {
            tell(ProbeStage::Answering(done, ways * questions));
            done += 1;
            // Evenly spread over kinds and depths; the second fact of a question stands far from the first.
            let at = |part: usize| {
                (index * probed.facts.len() / questions + part * probed.facts.len() / 2) % probed.facts.len()
            };
            let asked: Vec<usize> = (0..asked).map(at).collect();
            let seen = answer(probed, profile, mode, kept, &asked)?;
            right.iter_mut().zip(seen).for_each(|(sum, seen)| *sum += usize::from(seen));
        }
        Ok(right.map(|right| right as f32 / questions as f32))
    };
    let all = [0, layers - 1];
    let mut trials: Vec<Trial> = Vec::new();
    let mut attempt = |profile: &Profile, mode: RecallMode, facts: usize, kept: [u32; 2]| -> Result<[f32; 3]> {
        let result = run(profile, Some(mode), facts, kept)?;
        trials.push(Trial {
            mode,
            facts,
            passages: profile.passages,
            extent: profile.extents.of(mode),
            layers: kept,
            answered: result[0],
        });
        Ok(result)
    };
    let modes = [RecallMode::Attend, RecallMode::Reread];
    let mut one = [[0.0; 3]; 2];
    profile.extents = Extents::default();
    for (best, mode) in one.iter_mut().zip(modes) {
        *best = attempt(profile, mode, 1, all)?;
    }
    let mut extents = Extents::default();
    profile.extents = Extents { attend: Extent::Sentence, reread: Extent::Sentence };
    for ((best, mode), extent) in one.iter_mut().zip(modes).zip([&mut extents.attend, &mut extents.reread]) {
        let sentences = attempt(profile, mode, 1, all)?;
        // Sentences alone are fewer tokens, with less among them that may be taken for the answer: where the probe is too easy to tell, and it
        // is for all but the smallest models, they are better for harder questions.
        if sentences[0] + MARGIN >= best[0] {
            (*best, *extent) = (sentences, Extent::Sentence);
        }
    }
    profile.extents = extents;
    // Keys and values of all layers are ten times the bytes, and what was read among other text answers worse to other words than it was written in.
    let better = |[attend, reread]: [f32; 2]| {
        if attend > reread + MARGIN { RecallMode::Attend } else { RecallMode::Reread }
    };
    profile.mode = better(one.map(|result| result[0]));
    let used = one[usize::from(profile.mode == RecallMode::Reread)];
    [_, profile.measured.found_first, profile.measured.found] = used;
    let mut two = [0.0; 2];
    for (share, mode) in two.iter_mut().zip(modes) {
        [*share, ..] = attempt(profile, mode, 2, all)?;
    }
    profile.mode_of_several = Some(better(two)).filter(|mode| *mode != profile.mode);
    if trimmed > 0 {
        let kept = [trimmed, layers - 1 - trimmed];
        let [share, ..] = attempt(profile, RecallMode::Attend, 1, kept)?;
        // One answer more or less is chance.
        if share + 1.0 / questions as f32 >= one[0][0] {
            profile.kv_layers = (kept[0]..=kept[1]).collect();
        }
    }
    profile.measured.answered_without = run(profile, None, 1, all)?[0];
    tell(ProbeStage::Answering(ways * questions, ways * questions));
    profile.measured.trials = trials;
    Ok(())
}

/// Whether a question about some facts was answered, a passage of one found first, and those of all among the ones used.
fn answer(
    probed: &Probed,
    profile: &Profile,
    mode: Option<RecallMode>,
    [first, last]: [u32; 2],
    asked: &[usize],
) -> Result<[bool; 3]> {
    let questions: Vec<&str> = asked.iter().map(|&at| probed.facts[at].question.as_str()).collect();
    let memory = match mode {
        None => MemoryFrom::Nothing,
        Some(mode) => MemoryFrom::Passages(PassagesFrom {
            recall: Arc::new(SomeLayers::new(Arc::clone(&probed.recall), first, last)),
            profile: Arc::new(profile.clone()),
            options: PassageOptions { mode: Some(mode), always: true, ..PassageOptions::default() },
            select: Select::Heads,
        }),
    };
    let prompt = ask(&probed.model, &questions.join(" "), mode.is_some())?;
    let options = GenerateOptions {
        max_tokens: ANSWER_TOKENS * asked.len(),
        memory,
        context_tokens: Some(usize::MAX),
        ..GenerateOptions::default()
    };
    let mut generation = match Generation::new(Arc::clone(&probed.model), prompt, options) {
        // A model of so few positions answers nothing, and has a profile all the same.
        Err(Error::PromptTooLong { .. }) => return Ok([false; 3]),
        generation => generation?,
    };
    let mut text = String::new();
    loop {
        match generation.step()? {
            GenerateStep::Prefill { .. } => {}
            GenerateStep::Token { text: piece, .. } => text.push_str(&piece),
            GenerateStep::Finished { text: piece, .. } => {
                text.push_str(&piece);
                break;
            }
        }
    }
    let used = generation.passages().map_or(&[][..], |(_, used)| used);
    let holds = |passage: &Passage, at: usize| passage.chunks.iter().any(|info| probed.right[at].contains(&info.id));
    let text = text.to_lowercase();
    Ok([
        asked.iter().all(|&at| text.contains(&probed.facts[at].answer.to_lowercase())),
        used.first().is_some_and(|passage| asked.iter().any(|&at| holds(passage, at))),
        asked.iter().all(|&at| used.iter().any(|passage| holds(passage, at))),
    ])
}

/// A memory as if it kept fewer layers.
struct SomeLayers {
    inner: Arc<dyn Recall>,
    geometry: KvGeometry,
    skipped: usize,
}

impl SomeLayers {
    fn new(inner: Arc<dyn Recall>, first: u32, last: u32) -> Self {
        let all = inner.geometry();
        let layers: Vec<u32> = all.layers.iter().copied().filter(|layer| (first..=last).contains(layer)).collect();
        let skipped = all.layers.iter().filter(|layer| **layer < first).count();
        Self { geometry: KvGeometry { layers, ..all.clone() }, inner, skipped }
    }
}

impl Recall for SomeLayers {
    fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    fn search(&self, request: &SearchRequest<'_>) -> MemoryResult<Vec<Vec<Hit>>> {
        self.inner.search(request)
    }

    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> MemoryResult<Vec<Arc<ChunkKv>>> {
        self.inner.fetch(slot + self.skipped, chunks)
    }

    fn neighbours(&self, chunks: &[ChunkId], before: usize, after: usize) -> MemoryResult<Vec<Vec<ChunkId>>> {
        self.inner.neighbours(chunks, before, after)
    }

    fn search_terms(&self, request: &TermRequest<'_>) -> MemoryResult<TermHits> {
        self.inner.search_terms(request)
    }

    fn search_words(&self, request: &WordRequest<'_>) -> MemoryResult<WordHits> {
        self.inner.search_words(request)
    }

    fn describe(&self, chunks: &[ChunkId]) -> MemoryResult<Vec<ChunkInfo>> {
        self.inner.describe(chunks)
    }

    fn chunks(&self, limit: usize) -> MemoryResult<Vec<ChunkId>> {
        self.inner.chunks(limit)
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }
}
