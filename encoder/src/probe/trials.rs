//! Which ways of using passages lead to right answers.

use std::sync::Arc;

use mnemon_memory_store::{
    ChunkId, ChunkInfo, ChunkKv, Hit, KvGeometry, Recall, Result as StoreResult, SearchRequest, TermHit, TermRequest,
};
use mnemon_runtime::{
    Error, GenerateOptions, GenerateStep, Generation, MemoryFrom, PassageOptions, PassagesFrom, Profile, RecallMode,
    Trial,
};

use super::{ProbeStage, Probed, ask};
use crate::Result;

/// Tokens of an answer.
const ANSWER_TOKENS: usize = 24;
/// Numbers of passages that are tried.
const PASSAGES: [usize; 3] = [1, 2, 3];
/// Reading again costs more than attending: it has to be better by this share of the answers to be preferred.
const REREAD_MARGIN: f32 = 0.1;
/// More passages help where a question wants several: they are taken if they cost no more than this share of the answers.
const PASSAGES_MARGIN: f32 = 0.05;
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
    let facts = answered.clamp(1, probed.facts.len());
    let ways = PASSAGES.len() * 2 + 2;
    let mut done = 0;
    let mut run = |profile: &Profile, mode: Option<RecallMode>, passages: usize, kept: [u32; 2]| -> Result<[f32; 3]> {
        let mut right = [0_usize; 3];
        for index in 0..facts {
            tell(ProbeStage::Answering(done, ways * facts));
            done += 1;
            // Evenly spread over kinds and depths.
            let at = index * probed.facts.len() / facts;
            let seen = answer(probed, profile, mode, passages, kept, at)?;
            right.iter_mut().zip(seen).for_each(|(sum, seen)| *sum += usize::from(seen));
        }
        Ok(right.map(|right| right as f32 / facts as f32))
    };
    let all = [0, layers - 1];
    let mut trials = Vec::new();
    let mut best = [0.0_f32; 2];
    let mut best_of_several = [0.0_f32; 2];
    let mut most = [PASSAGES[0]; 2];
    for (which, mode) in [RecallMode::Attend, RecallMode::Reread].into_iter().enumerate() {
        for passages in PASSAGES {
            let [share, found_first, found] = run(profile, Some(mode), passages, all)?;
            trials.push(Trial { mode, passages, layers: all, answered: share });
            if passages == PASSAGES[0] || share + PASSAGES_MARGIN >= best[which] {
                most[which] = passages;
            }
            best[which] = best[which].max(share);
            if passages > 1 {
                best_of_several[which] = best_of_several[which].max(share);
            }
            profile.measured.found_first = found_first;
            profile.measured.found = profile.measured.found.max(found);
        }
    }
    let preferred = |best: [f32; 2]| match best[1] > best[0] + REREAD_MARGIN {
        true => RecallMode::Reread,
        false => RecallMode::Attend,
    };
    profile.mode = preferred(best);
    profile.mode_of_several = Some(preferred(best_of_several)).filter(|mode| *mode != profile.mode);
    let rereads = profile.mode_for(1) == RecallMode::Reread;
    profile.passages = most[usize::from(profile.mode_for(2) == RecallMode::Reread)];
    if trimmed > 0 && !rereads {
        let kept = [trimmed, layers - 1 - trimmed];
        let passages = if profile.mode_for(2) == RecallMode::Attend { profile.passages } else { 1 };
        let [share, ..] = run(profile, Some(RecallMode::Attend), passages, kept)?;
        trials.push(Trial { mode: RecallMode::Attend, passages, layers: kept, answered: share });
        // One answer more or less is chance.
        if share + 1.0 / facts as f32 >= best[0] {
            profile.kv_layers = (kept[0]..=kept[1]).collect();
        }
    }
    profile.measured.answered_without = run(profile, None, 0, all)?[0];
    tell(ProbeStage::Answering(ways * facts, ways * facts));
    profile.measured.trials = trials;
    Ok(())
}

/// Whether a question was answered, its passage found first, and among those used.
fn answer(
    probed: &Probed,
    profile: &Profile,
    mode: Option<RecallMode>,
    passages: usize,
    [first, last]: [u32; 2],
    at: usize,
) -> Result<[bool; 3]> {
    let (fact, right) = (&probed.facts[at], &probed.right[at]);
    let memory = match mode {
        None => MemoryFrom::Nothing,
        Some(mode) => MemoryFrom::Passages(PassagesFrom {
            recall: Arc::new(SomeLayers::new(Arc::clone(&probed.recall) as _, first, last)),
            profile: Arc::new(profile.clone()),
            options: PassageOptions { mode: Some(mode), passages: Some(passages), ..PassageOptions::default() },
        }),
    };
    let prompt = ask(&probed.model, &fact.question, mode.is_some())?;
    let options = GenerateOptions {
        max_tokens: ANSWER_TOKENS,
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
    let holds = |chunks: &[ChunkId]| chunks.iter().any(|chunk| right.contains(chunk));
    Ok([
        text.to_lowercase().contains(&fact.answer.to_lowercase()),
        used.first().is_some_and(|passage| holds(&passage.chunks)),
        used.iter().any(|passage| holds(&passage.chunks)),
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

    fn search(&self, request: &SearchRequest<'_>) -> StoreResult<Vec<Vec<Hit>>> {
        self.inner.search(request)
    }

    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> StoreResult<Vec<Arc<ChunkKv>>> {
        self.inner.fetch(slot + self.skipped, chunks)
    }

    fn neighbours(&self, chunks: &[ChunkId], before: usize, after: usize) -> StoreResult<Vec<Vec<ChunkId>>> {
        self.inner.neighbours(chunks, before, after)
    }

    fn search_terms(&self, request: &TermRequest<'_>) -> StoreResult<Vec<TermHit>> {
        self.inner.search_terms(request)
    }

    fn describe(&self, chunks: &[ChunkId]) -> StoreResult<Vec<ChunkInfo>> {
        self.inner.describe(chunks)
    }

    fn chunks(&self, limit: usize) -> StoreResult<Vec<ChunkId>> {
        self.inner.chunks(limit)
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }
}
