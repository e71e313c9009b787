//! A prompt read with passages in it: the text before, a look at the question, the passages, the text after; then one token at a
//! time, with passages chosen again as the text grows.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use mnemon_memory::{ChunkId, ChunkInfo, Invalid};

use super::silence::Weighed;
use super::{Passage, PassagesFrom, Prompt, Select, Selected, Selection, found, select, tokens_before, trim};
use crate::attention::prefixes::Prefixes;
use crate::error::{Error, Result};
use crate::model::{Logits, Model, SequenceState};
use crate::profile::{Extent, QueryHead, RecallMode};
use crate::strategies::{PassageAttention, Stretch};

/// Tokens of one forward pass.
const BLOCK_TOKENS: usize = 128;
/// Tokens whose queries are looked up, the last ones of a question: more say little that is new.
const QUESTION_TOKENS_MAX: usize = 128;
/// What stands between passages that are read, and after a line that dates one.
const BETWEEN: &str = "\n\n";

/// What one step did.
pub(crate) enum ReadStep {
    /// A piece was read: tokens read, and tokens of the prompt without passages.
    More(usize, usize),
    /// All of it; logits after the last token, `[1, vocab]`.
    Done(Tensor),
}

/// Where reading stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    /// So many tokens before the passages were read.
    Before(usize),
    /// So many tokens after them were looked at, up to the last search head.
    Look(usize),
    Choose,
    /// So many stretches were read again.
    Passages(usize),
    /// So many tokens after the passages were read.
    After(usize),
    /// Memory has nothing to say.
    Silent,
}

/// Passages that fit, what stands among them, still without keys and values, and the tokens of each stretch.
struct Fitting {
    passages: Vec<Passage>,
    stretches: Vec<Stretch>,
    tokens: Vec<Vec<u32>>,
}

/// Stretches that are read again in one pass.
struct Unread {
    stretches: Range<usize>,
    position: usize,
    tokens: Vec<u32>,
}

/// See the module.
pub(crate) struct PassageReader {
    model: Arc<Model>,
    from: PassagesFrom,
    mode: RecallMode,
    prompt: Prompt,
    attention: PassageAttention,
    state: SequenceState,
    stage: Stage,
    passages: Vec<Passage>,
    unread: Vec<Unread>,
    /// Positions kept free for passages, at least.
    reserved: usize,
    /// Decoder layers up to the last search head.
    looked_layers: usize,
    /// Tokens of the question, and their queries.
    asked: (Vec<u32>, Vec<f32>),
    /// Tokens since passages were chosen.
    recent: Vec<u32>,
    /// Whether the passages in use are those of a search.
    is_found: bool,
}

impl PassageReader {
    /// Reads `prompt` in at most `context_tokens` positions; with `reserve`, as many as passages may take are
    /// kept free for them even if the first choice takes fewer.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`] when the prompt leaves no room, [`Error::Invalid`] for a mode that the memory does not allow.
    pub(crate) fn new(
        model: &Arc<Model>,
        prompt: Prompt,
        from: PassagesFrom,
        context_tokens: usize,
        reserve: bool,
    ) -> Result<Self> {
        from.options.validate()?;
        let mode = from.mode(1)?;
        if prompt.len() >= context_tokens {
            return Err(Error::PromptTooLong { tokens: prompt.len(), limit: context_tokens });
        }
        let geometry = from.recall.geometry();
        let config = model.config();
        if geometry.kv_heads as usize != config.kv_heads || geometry.head_dim as usize != config.head_dim {
            return Err(Error::Geometry {
                stored: format!("{} heads of {}", geometry.kv_heads, geometry.head_dim),
                needed: format!("{} heads of {}", config.kv_heads, config.head_dim),
            });
        }
        let passages = from.options.passages.unwrap_or(from.profile.passages);
        let chunks = 2 * from.options.neighbours.unwrap_or(from.profile.neighbours) + 1;
        let reserved = if reserve { passages * chunks * geometry.chunk_tokens as usize } else { 0 };
        let heads: Vec<QueryHead> = from.profile.search.iter().map(|head| head.query).collect();
        let looked_layers = heads.iter().map(|head| head.layer as usize + 1).max().unwrap_or(0);
        let attention = PassageAttention::new(
            model,
            prompt.before.len(),
            context_tokens,
            &geometry.layers,
            &heads,
            QUESTION_TOKENS_MAX.max(prompt.after.len().min(context_tokens)),
        );
        Ok(Self {
            model: Arc::clone(model),
            mode,
            state: SequenceState::new(model),
            stage: Stage::Begin,
            passages: Vec::new(),
            unread: Vec::new(),
            reserved,
            looked_layers,
            asked: (Vec::new(), Vec::new()),
            recent: Vec::new(),
            is_found: false,
            attention,
            prompt,
            from,
        })
    }

    /// The model, and the prompt as it is without memory.
    pub(crate) fn without(&self) -> Result<(Arc<Model>, Vec<u32>)> {
        Ok((Arc::clone(&self.model), self.prompt.without.clone().ok_or_else(out_of_order)?))
    }

    /// The prompt, with a place for passages.
    pub(crate) fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// The mode that is used.
    pub(crate) fn mode(&self) -> RecallMode {
        self.mode
    }

    /// The passages in use, best first.
    pub(crate) fn passages(&self) -> &[Passage] {
        &self.passages
    }

    /// Attention to passages since the last call (see [`PassageAttention::take_masses`]).
    pub(crate) fn take_masses(&mut self) -> Vec<(ChunkId, f32)> {
        self.attention.take_masses()
    }

    /// Whether a token is a word of the question, or none.
    pub(crate) fn asks(&self, token: u32) -> bool {
        let question = self.prompt.after.get(self.prompt.question.clone()).unwrap_or_default();
        let word = self.model.terms().each(&[token]).pop().unwrap_or_default();
        word.is_empty() || word.iter().any(|token| question.contains(token))
    }

    /// Whether another token has a position that the model was trained with.
    pub(crate) fn has_room(&self) -> bool {
        self.state.position < self.model.config().max_position_embeddings
    }

    /// One bounded piece of reading the prompt; `None` when memory has nothing to say: the prompt is then to be read
    /// [without](Self::without) it, elsewhere.
    pub(crate) fn step(&mut self) -> Result<Option<ReadStep>> {
        match self.prepare()? {
            Some(done) => Ok(Some(ReadStep::More(done, self.prompt.len()))),
            None if self.stage == Stage::Silent => Ok(None),
            None => self.read_after().map(Some),
        }
    }

    /// One bounded piece of what comes before the text after the passages: tokens done; `None` when that text is next.
    pub(crate) fn prepare(&mut self) -> Result<Option<usize>> {
        let before = self.prompt.before.len();
        match self.stage {
            Stage::Begin => {
                let done = if self.begin_as_before()? { before } else { 0 };
                self.stage = Stage::Before(done);
                self.prepare()
            }
            Stage::Before(done) if done < before => {
                let end = (done + BLOCK_TOKENS).min(before);
                let block = self.prompt.before[done..end].to_vec();
                self.forward(&block, Logits::None)?;
                self.stage = Stage::Before(end);
                if end == before {
                    let before = &self.prompt.before;
                    if Prefixes::accepts(before) {
                        self.model.prefixes().keep(before, self.attention.window(), self.attention.beginning()?);
                    }
                }
                Ok(Some(end))
            }
            Stage::Before(_) => {
                self.attention.take_queries();
                let asks = !self.prompt.question.is_empty() && self.looked_layers > 0;
                self.stage = if asks { Stage::Look(0) } else { Stage::Choose };
                self.prepare()
            }
            Stage::Look(done) => {
                let end = (done + BLOCK_TOKENS).min(self.prompt.question.end);
                let block = self.prompt.after[done..end].to_vec();
                self.model.look(&block, &mut self.state, &mut self.attention, self.looked_layers)?;
                self.stage = if end == self.prompt.question.end { Stage::Choose } else { Stage::Look(end) };
                Ok(Some(before))
            }
            Stage::Choose => {
                self.stage = if self.choose()? { Stage::Passages(0) } else { Stage::Silent };
                Ok(Some(before))
            }
            Stage::Passages(done) if done < self.unread.len() => {
                self.read_again(done)?;
                self.stage = Stage::Passages(done + 1);
                Ok(Some(before))
            }
            Stage::Passages(_) => {
                self.state.position = self.attention.region().map_or(before, |region| region.end);
                self.stage = Stage::After(0);
                Ok(None)
            }
            Stage::After(_) | Stage::Silent => Ok(None),
        }
    }

    /// Whether the text before the passages was read for another prompt: it is not read again then.
    fn begin_as_before(&mut self) -> Result<bool> {
        let Some(sequence) = self.model.prefixes().find(&self.prompt.before, self.attention.window()) else {
            return Ok(false);
        };
        self.attention.begin_with(&sequence)?;
        self.state.position = self.prompt.before.len();
        Ok(true)
    }

    fn read_after(&mut self) -> Result<ReadStep> {
        let Stage::After(done) = self.stage else { return Err(out_of_order()) };
        let total = self.prompt.after.len();
        let end = (done + BLOCK_TOKENS).min(total);
        let block = self.prompt.after.get(done..end).unwrap_or_default().to_vec();
        // The masses of earlier blocks say little about the answer.
        self.attention.take_masses();
        let logits = self.forward(&block, if end == total { Logits::Last } else { Logits::None })?;
        self.stage = Stage::After(end);
        self.attention.take_queries();
        Ok(logits.map_or(ReadStep::More(self.prompt.before.len() + end, self.prompt.len()), ReadStep::Done))
    }

    /// Reads tokens that follow; before that, chooses passages again when enough came since the last choice.
    pub(crate) fn feed(&mut self, tokens: &[u32], want: Logits) -> Result<Option<Tensor>> {
        // A search goes by the question alone.
        if !self.is_found && self.from.options.choose_again_after.is_some_and(|after| self.recent.len() >= after) {
            self.choose_again()?;
        }
        self.recent.extend(tokens);
        self.forward(tokens, want)
    }

    fn forward(&mut self, tokens: &[u32], want: Logits) -> Result<Option<Tensor>> {
        self.model.forward(tokens, &mut self.state, &mut self.attention, want)
    }

    /// The first choice, by the question; `false` if memory has nothing to say on it.
    fn choose(&mut self) -> Result<bool> {
        let queries = self.attention.take_queries();
        let row = self.from.profile.search.len() * self.model.config().head_dim;
        let asked = self.prompt.question.clone();
        let first = asked.start.max(asked.end.saturating_sub(QUESTION_TOKENS_MAX));
        let queries = queries.get(first * row..).unwrap_or_default();
        let before = self.prompt.before.len();
        self.attention.rewind(before);
        self.state.position = before;
        let tokens = self.prompt.after.get(first..asked.end).unwrap_or_default().to_vec();
        let asked = self.prompt.after.get(asked).unwrap_or_default();
        let terms = self.model.terms().of(asked);
        let term_words = self.model.terms().words(asked);
        let words = self.model.terms().each(&tokens);
        let selection = self.selection(queries, &words, &terms, &term_words);
        let room = self.room();
        let by_heads = match self.from.select {
            Select::Search(_) => None,
            Select::Heads | Select::Both(_) => {
                let Selected { passages, weighed } = self.select(&selection)?;
                let fitting = self.fitting(passages, room)?;
                let says = says_something(&fitting.passages, &weighed);
                Some((fitting, says))
            }
        };
        let found = self.from.select.found();
        let (tells, only_by_meaning) = found.map_or((false, false), |found| (found.tells, found.only_by_meaning));
        let (fitting, says) = match by_heads {
            Some(by_heads) if !tells || by_heads.1 && !only_by_meaning => by_heads,
            _ => (self.found(room)?, tells),
        };
        let may_be_silent = self.prompt.without.is_some() && (!self.from.options.always || fitting.passages.is_empty());
        if may_be_silent && !says {
            return Ok(false);
        }
        self.asked = (tokens, queries.to_vec());
        self.place(fitting, room)?;
        Ok(true)
    }

    /// The passages that a search found: the sentences that matter, or all of their chunks where nothing tells which do.
    fn found(&mut self, room: usize) -> Result<Fitting> {
        let Some(found) = self.from.select.found() else { return self.fitting(Vec::new(), room) };
        let recall = self.from.recall.as_ref();
        let mut passages = found::passages(recall, &self.from.profile, found, &self.from.options)?;
        self.mode = self.from.mode(passages.len())?;
        if self.from.options.neighbours.is_none() {
            let tells = passages.iter().all(|passage| !passage.attended.is_empty());
            let extent = if tells { self.from.profile.extents.of(self.mode) } else { Extent::Chunk };
            passages = trim(&self.model, &passages, extent, &Weighed::new(&[], &[], &[], recall.len()));
        }
        self.is_found = true;
        self.fitting(passages, room)
    }

    /// Another choice, by the question and what came since the last one.
    fn choose_again(&mut self) -> Result<()> {
        let queries = self.attention.take_queries();
        let asked = self.prompt.after.get(self.prompt.question.clone()).unwrap_or_default();
        let tokens: Vec<u32> = asked.iter().chain(&self.recent).copied().collect();
        let recent = std::mem::take(&mut self.recent);
        let row = self.from.profile.search.len() * self.model.config().head_dim;
        let from = queries.len().saturating_sub(QUESTION_TOKENS_MAX * row);
        let terms = self.model.terms().of(&tokens);
        let queries = queries.get(from..).unwrap_or_default();
        let last = recent.len().saturating_sub(queries.len() / row.max(1));
        let (asked_tokens, asked_queries) = &self.asked;
        let looked_up = [asked_tokens.as_slice(), &recent[last..]].concat();
        let queries = [asked_queries.as_slice(), queries].concat();
        let (words, term_words) = (self.model.terms().each(&looked_up), self.model.terms().words(&tokens));
        let selection = self.selection(&queries, &words, &terms, &term_words);
        let mode = self.mode;
        let passages = self.select(&selection)?.passages;
        let position = self.state.position;
        let room = self.attention.region().map_or(0, |region| region.len());
        let fitting = self.fitting(passages, room)?;
        // Those in use are better than none.
        if fitting.passages.is_empty() || parts(&fitting.passages) == parts(&self.passages) {
            self.mode = mode;
            return Ok(());
        }
        self.place(fitting, room)?;
        for index in 0..self.unread.len() {
            self.read_again(index)?;
        }
        self.state.position = position;
        Ok(())
    }

    fn selection<'a>(
        &self,
        queries: &'a [f32],
        words: &'a [Vec<u32>],
        terms: &'a [Vec<u32>],
        term_words: &'a [Vec<usize>],
    ) -> Selection<'a> {
        let config = self.model.config();
        Selection { queries, words, terms, term_words, group: config.heads / config.kv_heads }
    }

    /// Passages, for a mode that depends on their number.
    fn select<'a>(&mut self, selection: &Selection<'a>) -> Result<Selected<'a>> {
        let recall = self.from.recall.as_ref();
        let mut selected = select(recall, &self.from.profile, selection, &self.from.options)?;
        self.mode = self.from.mode(selected.passages.len())?;
        if self.from.options.neighbours.is_none() {
            let extent = self.from.profile.extents.of(self.mode);
            selected.passages = trim(&self.model, &selected.passages, extent, &selected.weighed);
        }
        Ok(selected)
    }

    /// Tokens that passages may have: what the prompt leaves of the context, less an eighth of it for the answer.
    fn room(&self) -> usize {
        let context = self.attention.window();
        (context - context / 8).saturating_sub(self.prompt.len())
    }

    /// The best of these passages, as many as fit in `room` tokens.
    fn fitting(&self, mut passages: Vec<Passage>, room: usize) -> Result<Fitting> {
        loop {
            let (stretches, tokens) = self.stretches(&passages)?;
            if passages.is_empty() || stretches.iter().map(|stretch| stretch.len).sum::<usize>() <= room {
                return Ok(Fitting { passages, stretches, tokens });
            }
            passages.pop();
        }
    }

    /// Puts passages into the region, the latest last.
    fn place(&mut self, fitting: Fitting, room: usize) -> Result<()> {
        let Fitting { passages, mut stretches, tokens } = fitting;
        if self.mode == RecallMode::Attend && !passages.is_empty() {
            let chunks: Vec<ChunkId> = stretches.iter().filter_map(|stretch| stretch.chunk).collect();
            let layers = self.from.recall.fetch_layers(&chunks)?;
            for (at, stretch) in stretches.iter_mut().filter(|stretch| stretch.chunk.is_some()).enumerate() {
                stretch.stored = layers.iter().filter_map(|layer| layer.get(at).cloned()).collect();
            }
        }
        let first = self.attention.region().map_or(self.prompt.before.len(), |region| region.start);
        let unread = self.attention.place(first, self.reserved.min(room), stretches, self.model.rotary())?;
        self.passages = passages;
        self.unread.clear();
        for (stretches, position) in unread {
            // At most a block at a time, and at least one stretch.
            let mut start = stretches.start;
            let mut at = position;
            while start < stretches.end {
                let mut end = start + 1;
                let mut len = tokens[start].len();
                while end < stretches.end && len + tokens[end].len() <= BLOCK_TOKENS {
                    len += tokens[end].len();
                    end += 1;
                }
                self.unread.push(Unread { stretches: start..end, position: at, tokens: tokens[start..end].concat() });
                at += len;
                start = end;
            }
        }
        Ok(())
    }

    /// What stands among the passages, and the tokens of each.
    fn stretches(&self, passages: &[Passage]) -> Result<(Vec<Stretch>, Vec<Vec<u32>>)> {
        let ordered = in_order(passages);
        let is_dated = self.is_dated(passages);
        let (mut stretches, mut all_tokens) = (Vec::new(), Vec::new());
        // Document, its token after the last one shown, and who said that and when.
        let mut last: Option<(u64, u64, Said)> = None;
        for passage in ordered {
            for (place, info) in passage.chunks.iter().enumerate() {
                for (part, said) in said_parts(&self.model, info, passage.shown(place)) {
                    let starts_at = info.span.token_start + part.start as u64;
                    let before =
                        last.as_ref().filter(|(document, end, _)| (*document, *end) == (info.document, starts_at));
                    let line = match before {
                        Some((_, _, before)) if *before == said => String::new(),
                        Some((_, _, before)) => {
                            let line = said.line(is_dated && before.date != said.date);
                            // Nobody is known to say it, but no longer the one before.
                            if line.is_empty() { BETWEEN.to_owned() } else { line }
                        }
                        None => {
                            let is_dated = is_dated && !self.says_its_date(passage)?;
                            // A stored passage follows without a gap unless it is introduced: each read stretch costs a pass.
                            let line = said.line(is_dated);
                            let gap = last.is_some() && (self.mode == RecallMode::Reread || !line.is_empty());
                            if gap { format!("{BETWEEN}{line}") } else { line }
                        }
                    };
                    let tokens = self.tokens(&line)?;
                    if !tokens.is_empty() {
                        stretches.push(Stretch { chunk: None, len: tokens.len(), skipped: 0, stored: Vec::new() });
                        all_tokens.push(tokens);
                    }
                    last = Some((info.document, info.span.token_start + part.end as u64, said));
                    all_tokens.push(info.tokens.get(part.clone()).unwrap_or_default().to_vec());
                    let stored = Vec::new();
                    stretches.push(Stretch { chunk: Some(info.id), len: part.len(), skipped: part.start, stored });
                }
            }
        }
        Ok((stretches, all_tokens))
    }

    /// Whether dates are shown: a model that does best with single sentences takes a date for the answer, so that it sees dates only where
    /// they tell passages apart.
    fn is_dated(&self, passages: &[Passage]) -> bool {
        let mut dates: HashSet<String> = HashSet::new();
        for passage in passages {
            for (place, info) in passage.chunks.iter().enumerate() {
                let parts = said_parts(&self.model, info, passage.shown(place));
                dates.extend(parts.into_iter().map(|(_, said)| said.date.unwrap_or_default()));
            }
        }
        let shows_all = self.from.options.neighbours.is_some();
        shows_all || self.from.profile.extents.of(self.mode) == Extent::Chunk || dates.len() > 1
    }

    /// Whether what is shown of a passage says its date.
    fn says_its_date(&self, passage: &Passage) -> Result<bool> {
        let Some(day) = day(passage) else { return Ok(false) };
        let shown: Vec<u32> =
            (0..passage.chunks.len()).flat_map(|place| passage.shown_tokens(place)).copied().collect();
        let text = self.model.tokenizer().decode(&shown, true);
        Ok(says_day(&text.map_err(|error| Error::Tokenizer { why: error.to_string() })?, &day))
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        // Dates and speakers are what users wrote.
        let encoding = self.model.shield().encode_text(self.model.tokenizer(), text, false)?;
        Ok(encoding.get_ids().to_vec())
    }

    fn read_again(&mut self, index: usize) -> Result<()> {
        let Some(Unread { stretches, position, tokens }) = self.unread.get(index) else { return Err(out_of_order()) };
        self.state.position = *position;
        self.attention.read_at(Some(stretches.clone()));
        let tokens = tokens.clone();
        self.forward(&tokens, Logits::None)?;
        self.attention.read_at(None);
        Ok(())
    }
}

/// Whether any of these passages says something on the question.
fn says_something(passages: &[Passage], weighed: &Weighed<'_>) -> bool {
    let shown = |passage: &Passage| -> HashSet<u32> {
        (0..passage.chunks.len()).flat_map(|place| passage.shown_tokens(place)).copied().collect()
    };
    passages.iter().any(|passage| weighed.says_something(&shown(passage), passage.core.len()))
}

/// What passages show, in the order of chunks.
fn parts(passages: &[Passage]) -> Vec<(ChunkId, Range<usize>)> {
    let mut parts = Vec::new();
    for passage in passages {
        parts.extend(passage.chunks.iter().enumerate().map(|(place, info)| (info.id, passage.shown(place))));
    }
    parts.sort_unstable_by_key(|(chunk, _)| *chunk);
    parts
}

/// Passages by their dates where all have one, and by their commits: models take what comes last for the latest.
pub(super) fn in_order(passages: &[Passage]) -> Vec<&Passage> {
    let first = |passage: &Passage| passage.chunks.first().map(|info| info.id);
    let mut ordered: Vec<&Passage> = passages.iter().collect();
    // Identifiers ascend with commits.
    ordered.sort_by_key(|passage| first(passage));
    if ordered.iter().all(|passage| day(passage).is_some()) {
        ordered.sort_by_cached_key(|passage| day(passage));
    }
    ordered
}

/// Who said something and when, as far as metadata tells.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    date: Option<String>,
    speaker: Option<String>,
}

impl Said {
    fn of(metadata: &BTreeMap<String, String>) -> Self {
        let of = |key: &str| metadata.get(key).filter(|value| !value.is_empty()).cloned();
        Self { date: of("date"), speaker: of("speaker") }
    }

    /// What is put before it.
    fn line(&self, is_dated: bool) -> String {
        match (self.date.as_ref().filter(|_| is_dated), &self.speaker) {
            (Some(date), Some(speaker)) => format!("[{date}] {speaker}: "),
            (Some(date), None) => format!("[{date}] "),
            (None, Some(speaker)) => format!("{speaker}: "),
            (None, None) => String::new(),
        }
    }
}

/// Who said what of the tokens `shown` of a chunk, in order; a token across a border belongs to the turn that ends.
fn said_parts(model: &Model, info: &ChunkInfo, shown: Range<usize>) -> Vec<(Range<usize>, Said)> {
    let mut parts = vec![(shown.start, 0)];
    for turn in info.turns.iter().filter(|turn| turn.start > 0) {
        let start = tokens_before(model, info, turn.start as usize);
        if start >= shown.end {
            break;
        }
        let start = start.max(shown.start);
        parts.pop_if(|(last, _)| *last >= start);
        parts.push((start, turn.start as usize));
    }
    let ends: Vec<usize> = parts.iter().skip(1).map(|(start, _)| *start).chain([shown.end]).collect();
    let said = |((start, byte), end): ((usize, usize), usize)| (start..end, Said::of(&info.metadata_at(byte)));
    parts.into_iter().zip(ends).map(said).collect()
}

/// The day that a passage begins with, if its date begins as ISO 8601 has it (`2026-11-26`): such days sort as texts.
fn day(passage: &Passage) -> Option<String> {
    let metadata = passage.chunks.first()?.metadata_at(passage.start.bytes);
    let day = metadata.get("date")?.get(..10)?;
    let is_day = day
        .bytes()
        .enumerate()
        .all(|(at, byte)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() });
    is_day.then(|| day.to_owned())
}

/// Whether a text has the numbers of a day (`2026-11-26`) and its year; months have names in every language.
fn says_day(text: &str, day: &str) -> bool {
    let numbers: HashSet<u32> =
        text.split(|sign: char| !sign.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
    let says = |part: Option<&str>| part.and_then(|part| part.parse().ok()).is_some_and(|part| numbers.contains(&part));
    says(day.get(..4)) && says(day.get(8..10))
}

fn out_of_order() -> Error {
    Error::Invalid(Invalid { what: "passages", why: "they were read out of order".into() })
}

#[cfg(test)]
mod tests {
    use super::says_day;

    #[test]
    fn a_text_may_say_its_day() {
        for text in ["On 4 May 1892 it rained.", "1892-05-04: rain", "May 4th, 1892", "04.05.1892"] {
            assert!(says_day(text, "1892-05-04"), "{text}");
        }
        for text in ["On 5 May 1892 it rained.", "In 1892 it rained.", "4 May", "18920504", ""] {
            assert!(!says_day(text, "1892-05-04"), "{text}");
        }
    }
}
