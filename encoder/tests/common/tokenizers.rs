//! Tokenizers of all the kinds that supported models use, trained on a few lines.

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::{NFC, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer, TokenizerBuilder,
};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub const TEXT: &str = include_str!("sample.txt");

fn train(
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    byte_level: bool,
) -> Tokenizer {
    let mut trainer = BpeTrainer::builder().vocab_size(900).min_frequency(2).show_progress(false);
    let mut bpe = BPE::builder();
    if byte_level {
        trainer = trainer.initial_alphabet(ByteLevel::alphabet().into_iter().collect());
    } else {
        let bytes = (0..=255u8).map(|byte| AddedToken::from(format!("<0x{byte:02X}>"), true));
        trainer = trainer
            .special_tokens(std::iter::once(AddedToken::from("<unk>", true)).chain(bytes).collect())
            .max_token_length(Some(12));
        bpe = bpe.byte_fallback(true).fuse_unk(true).unk_token("<unk>".into());
    }
    // Trained with borders between words, so that tokens do not span them, whatever serves later.
    let splitting = match (&pre_tokenizer, byte_level) {
        (Some(splitting), true) => splitting.clone(),
        _ => Metaspace::new('▁', PrependScheme::First, true).into(),
    };
    let mut raw = TokenizerBuilder::default()
        .with_model(bpe.build().unwrap())
        .with_normalizer(normalizer)
        .with_pre_tokenizer(Some(splitting))
        .with_post_processor(None::<tokenizers::PostProcessorWrapper>)
        .with_decoder(None::<tokenizers::DecoderWrapper>)
        .build()
        .unwrap();
    raw.train(&mut trainer.build(), TEXT.lines().map(|line| format!("{line}\n"))).unwrap();
    let mut tokenizer: Tokenizer = Tokenizer::from(raw);
    if !byte_level {
        // As published ones: bytes are tokens of the vocabulary, not added tokens.
        let mut text = tokenizer.to_string(false).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json["added_tokens"] = serde_json::json!([]);
        text = json.to_string();
        tokenizer = text.parse().unwrap();
    }
    tokenizer.with_pre_tokenizer(pre_tokenizer);
    tokenizer
}

fn split(pattern: &str) -> PreTokenizerWrapper {
    Split::new(SplitPattern::Regex(pattern.into()), SplitDelimiterBehavior::Isolated, false).unwrap().into()
}

fn byte_level(add_prefix_space: bool, use_regex: bool) -> PreTokenizerWrapper {
    ByteLevel::new(add_prefix_space, true, use_regex).into()
}

fn with_specials(mut tokenizer: Tokenizer) -> Tokenizer {
    let specials = ["<|endoftext|>", "</s>"].map(|text| AddedToken::from(text, true));
    tokenizer.add_special_tokens(specials).unwrap();
    tokenizer.add_tokens([AddedToken::from("<think>", false).normalized(false)]).unwrap();
    tokenizer
}

/// GPT-2.
pub fn gpt2() -> Tokenizer {
    with_specials(train(None, Some(byte_level(false, true)), true))
}

/// GPT-2 with a space put before the text, as `RoBERTa` has it.
pub fn gpt2_prefixed() -> Tokenizer {
    with_specials(train(None, Some(byte_level(true, true)), true))
}

/// Llama 3.
pub fn llama3() -> Tokenizer {
    with_specials(train(None, Some(Sequence::new(vec![split(LLAMA3), byte_level(false, false)]).into()), true))
}

/// Qwen 2 and 3.
pub fn qwen() -> Tokenizer {
    let pre_tokenizer = Sequence::new(vec![split(QWEN), byte_level(false, false)]).into();
    with_specials(train(Some(NFC.into()), Some(pre_tokenizer), true))
}

/// The default model's: single digits, then GPT-2.
pub fn digits() -> Tokenizer {
    let pre_tokenizer = Sequence::new(vec![Digits::new(true).into(), byte_level(false, true)]).into();
    with_specials(train(None, Some(pre_tokenizer), true))
}

/// Llama 2 and Mistral, older files: the normaliser writes spaces as U+2581 and puts one first; no pre-tokenizer.
pub fn llama2() -> Tokenizer {
    let mut tokenizer = train(None, None, false);
    let normalizers: Vec<NormalizerWrapper> =
        vec![Prepend::new("▁".into()).into(), Replace::new(" ", "▁").unwrap().into()];
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers))).unwrap();
    with_specials(tokenizer)
}

/// Llama 2 and Mistral, newer files: Metaspace that does not split.
pub fn mistral() -> Tokenizer {
    let pre_tokenizer = Metaspace::new('▁', PrependScheme::First, false).into();
    with_specials(train(None, Some(pre_tokenizer), false))
}

/// Metaspace that splits and puts a space before every section.
pub fn metaspace() -> Tokenizer {
    let pre_tokenizer = Metaspace::new('▁', PrependScheme::Always, true).into();
    with_specials(train(None, Some(pre_tokenizer), false))
}

/// All of them by name.
pub fn all() -> Vec<(&'static str, Tokenizer)> {
    vec![
        ("gpt2", gpt2()),
        ("gpt2_prefixed", gpt2_prefixed()),
        ("llama3", llama3()),
        ("qwen", qwen()),
        ("digits", digits()),
        ("llama2", llama2()),
        ("mistral", mistral()),
        ("metaspace", metaspace()),
    ]
}
