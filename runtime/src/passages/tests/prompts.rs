//! Where passages stand in a prompt.

use mnemon_memory::Invalid;

use super::super::{Prompt, split_chat, split_text};
use super::*;
use crate::chat::{Conversation, Message};
use crate::error::{Error, Result};
use jiff::civil::DateTime;

/// A model whose tokens are characters of ASCII, with a template.
fn chatty(template: &str, bos: bool) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama");
    // Twice the tokens, so that there is one for each letter; only texts are compared.
    let mut weights =
        candle_core::safetensors::load(fixture.join("model.safetensors"), &candle_core::Device::Cpu).unwrap();
    let embedding = weights["model.embed_tokens.weight"].clone();
    let doubled = candle_core::Tensor::cat(&[&embedding, &embedding], 0).unwrap();
    weights.insert("model.embed_tokens.weight".into(), doubled);
    candle_core::safetensors::save(&weights, folder.path().join("model.safetensors")).unwrap();
    let config = fs::read_to_string(fixture.join("config.json")).unwrap();
    fs::write(folder.path().join("config.json"), config.replace("\"vocab_size\": 64", "\"vocab_size\": 128")).unwrap();
    let vocabulary: Vec<String> = (0..95_u8)
        .map(|at| (at, char::from(b' ' + at).to_string()))
        .map(|(at, text)| format!("{}:{}", serde_json::json!(text), at + 3))
        .chain(["\"\\n\":98".into(), "\"<s>\":1".into(), "\"</s>\":2".into(), "\"?!\":0".into()])
        .collect();
    let adds = r#"{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},
        {"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},
        {"Sequence":{"id":"B","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}}"#;
    let tokenizer = format!(
        r#"{{"version":"1.0","added_tokens":[
            {{"id":1,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}],
            "normalizer":null,"pre_tokenizer":{{"type":"Split","pattern":{{"Regex":"[\\s\\S]"}},"behavior":"Isolated","invert":false}},
            "post_processor":{},"decoder":{{"type":"Fuse"}},"truncation":null,"padding":null,
            "model":{{"type":"WordLevel","vocab":{{{}}},"unk_token":"?!"}}}}"#,
        if bos { adds } else { "null" },
        vocabulary.join(",")
    );
    fs::write(folder.path().join("tokenizer.json"), tokenizer).unwrap();
    let settings = serde_json::json!({ "bos_token": "<s>", "eos_token": "</s>", "chat_template": template });
    fs::write(folder.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    Model::load(&ModelSource::Directory(folder.path().into()), &options).unwrap()
}

const PLAIN: &str = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>";
const TRIMMING: &str =
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\n{% endfor %}<assistant>";

fn say(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn conversation(messages: &[Message]) -> Conversation {
    Conversation::new(messages.to_vec(), DateTime::constant(2026, 3, 5, 14, 7, 9, 0))
}

fn chat(model: &Model, messages: &[Message], for_passages: bool) -> Result<Prompt> {
    Prompt::chat(model, &conversation(messages), for_passages)
}

fn text(model: &Model, tokens: &[u32]) -> String {
    model.tokenizer().decode(tokens, false).unwrap()
}

fn question(model: &Model, prompt: &Prompt) -> String {
    text(model, &prompt.after[prompt.question.clone()])
}

#[test]
fn passages_stand_inside_the_last_message_of_the_user() {
    for bos in [false, true] {
        let model = chatty(PLAIN, bos);
        let messages = [
            say("system", "Be kind."),
            say("user", "Hello?"),
            say("assistant", "Hi."),
            say("user", "Who ate the cake?"),
        ];
        let prompt = chat(&model, &messages, true).unwrap();
        let (before, after) = (text(&model, &prompt.before), text(&model, &prompt.after));
        assert!(before.starts_with("<s><system>Be kind.\n<user>Hello?\n<assistant>Hi.\n<user>"), "{before}");
        assert!(before.ends_with("\n\n"), "{before}");
        assert_eq!(after, "\n\nQuestion: Who ate the cake?\n<assistant>");
        assert_eq!(prompt.before.iter().filter(|id| **id == 1).count(), 1, "one beginning");
        assert!(!prompt.after.contains(&1));
        assert_eq!(question(&model, &prompt), "Who ate the cake?");
        assert_eq!(prompt.len(), prompt.before.len() + prompt.after.len());
        assert_eq!(prompt.tokens().len(), prompt.len());
        // Without passages the conversation is as it is.
        let prompt = chat(&model, &messages, false).unwrap();
        let whole = text(&model, &prompt.tokens());
        assert!(whole.ends_with("<user>Who ate the cake?\n<assistant>") && !whole.contains("passages"), "{whole}");
    }
}

#[test]
fn passages_are_pasted_in_the_words_of_a_conversation() {
    let model = chatty(PLAIN, false);
    for content in ["Who ate it? \n", "Tell me all of it."] {
        let prompt = chat(&model, &[say("user", content)], true).unwrap();
        let said = [text(&model, &prompt.before), "Anna ate the cake.".into(), text(&model, &prompt.after)].concat();
        assert_eq!(said, format!("<s><user>{}\n<assistant>", Prompt::pasted("Anna ate the cake.", content)));
    }
}

#[test]
fn what_the_assistant_has_begun_comes_after_the_question() {
    let model = chatty(PLAIN, true);
    let messages = [say("user", "Who ate the cake?"), say("assistant", "It was")];
    let prompt = chat(&model, &messages, true).unwrap();
    assert_eq!(text(&model, &prompt.after), "\n\nQuestion: Who ate the cake?\n<assistant>It was\n<assistant>");
    assert_eq!(question(&model, &prompt), "Who ate the cake?");
}

#[test]
fn templates_may_trim_what_is_said() {
    for template in [PLAIN, TRIMMING] {
        let model = chatty(template, true);
        let prompt = chat(&model, &[say("user", "Who ate it?  \n")], true).unwrap();
        assert_eq!(question(&model, &prompt), "Who ate it?", "{template}");
        // Space before the question is part of it, and does no harm.
        let prompt = chat(&model, &[say("user", "  Who ate it?")], true).unwrap();
        assert_eq!(question(&model, &prompt).trim(), "Who ate it?", "{template}");
    }
}

#[test]
fn how_to_answer_is_not_asked() {
    let model = chatty(PLAIN, true);
    let asked = |content: &str| question(&model, &chat(&model, &[say("user", content)], true).unwrap());
    assert_eq!(asked("Where is Mary? Answer with one word."), "Where is Mary?");
    assert_eq!(asked("Where is Mary? And who is with her? Be brief."), "Where is Mary? And who is with her?");
    assert_eq!(asked("Mary is away. Where is she?"), "Mary is away. Where is she?");
    assert_eq!(asked("What? Tell me of Mary."), "What? Tell me of Mary.", "too little to ask");
    let long = format!("Where is Mary? {}", "She left the house. ".repeat(10));
    assert_eq!(asked(&long), long.trim_end(), "too much to say how");
}

#[test]
fn an_empty_question_asks_nothing() {
    let model = chatty(PLAIN, true);
    for empty in ["", " ", "\n"] {
        let prompt = chat(&model, &[say("user", empty)], true).unwrap();
        assert!(question(&model, &prompt).trim().is_empty(), "{prompt:?}");
        assert!(!prompt.after.is_empty());
    }
}

#[test]
fn templates_that_hide_the_question_are_told() {
    let model = chatty("{{ messages[0].content }}", true);
    let error = chat(&model, &[say("system", "x"), say("user", "y")], true).unwrap_err();
    assert!(matches!(&error, Error::ChatTemplate { why } if why.contains("last message of the user")), "{error}");
    // One that says it twice keeps it twice; the passages stand in the first.
    let model = chatty("{{ messages[0].content }}|{{ messages[0].content }}", true);
    let prompt = chat(&model, &[say("user", "Who?")], true).unwrap();
    assert_eq!(text(&model, &prompt.after), "\n\nQuestion: Who?|Who?", "the mark is never shown to the model");
}

#[test]
fn no_message_can_move_the_place() {
    let model = chatty(PLAIN, false);
    let with = |mark: &str| [say("user", &format!("Hello{mark}.")), say("assistant", "Hi."), say("user", "Where?")];
    let [marked, plain] = ["\u{FDD1}", "\u{FFFD}"].map(|mark| chat(&model, &with(mark), true).unwrap());
    assert_eq!((marked.before, marked.after, marked.question), (plain.before, plain.after, plain.question));
}

#[test]
fn control_tokens_of_users_are_text() {
    let model = chatty(PLAIN, true);
    let asked = "Say <s>, or < s>.";
    for for_passages in [false, true] {
        let tokens = chat(&model, &[say("system", "<s>"), say("user", asked)], for_passages).unwrap().tokens();
        assert!(text(&model, &tokens).contains(asked), "{}", text(&model, &tokens));
        assert_eq!(tokens.iter().filter(|id| **id == 1).count(), 1, "the template's own");
    }
    let error = chat(&model, &[say("s><s", "Hi.")], false).unwrap_err();
    assert!(matches!(&error, Error::Invalid(Invalid { what: "role", why }) if why.contains("system")), "{error}");
}

#[test]
fn without_a_message_of_the_user_there_is_no_place() {
    let model = chatty(PLAIN, true);
    let prompt = chat(&model, &[say("system", "Be kind.")], true).unwrap();
    assert_eq!(text(&model, &prompt.tokens()), "<s><system>Be kind.\n<assistant>");
    let prompt = chat(&model, &[], true).unwrap();
    assert_eq!(text(&model, &prompt.tokens()), "<s><assistant>");
    // A model without a template is given texts.
    let error = chat(&super::model("llama"), &[say("user", "Who?")], true).unwrap_err();
    assert!(error.to_string().contains("give a prompt"), "{error}");
}

#[test]
fn texts_have_their_passages_before_them() {
    for bos in [false, true] {
        let model = chatty(PLAIN, bos);
        let prompt = Prompt::text(&model, "Once upon a time", false).unwrap();
        assert_eq!(prompt.before, if bos { vec![1] } else { vec![] });
        assert_eq!(question(&model, &prompt), "Once upon a time");
        // A beginning that is spelled is not doubled where it counts, and is text where it does not.
        let prompt = Prompt::text(&model, "<s>Once", true).unwrap();
        assert_eq!((prompt.before.as_slice(), prompt.after.len()), (&[1][..], 4));
        let prompt = Prompt::text(&model, "<s>Once", false).unwrap();
        assert_eq!((prompt.before.len(), prompt.after.len()), (usize::from(bos), 7));
        assert!(matches!(Prompt::text(&model, "", false).unwrap_err(), Error::EmptyPrompt));
        assert!(matches!(Prompt::text(&model, "<s>", true).unwrap_err(), Error::EmptyPrompt));
    }
}

#[test]
fn the_end_of_a_long_text_is_kept_from_a_word_on() {
    let model = chatty(PLAIN, false);
    let whole = "one two three four five six seven eight nine ten";
    let (beginning, end) = split_text(&model, whole, 12).unwrap();
    assert_eq!([beginning.as_str(), &end].concat(), whole);
    assert_eq!(end, "eight nine ten", "twelve letters, and the rest of the word");
    assert_eq!(split_text(&model, whole, 500).unwrap(), (String::new(), whole.to_owned()));
}

#[test]
fn the_system_and_the_latest_messages_are_kept() {
    let model = chatty(PLAIN, false);
    let messages = [
        say("system", "Be brief."),
        say("user", "First question, long ago."),
        say("assistant", "First answer."),
        say("user", "Second?"),
        say("assistant", "Yes."),
        say("user", "Third?"),
    ];
    // The template puts ten tokens around each, on average.
    let (earlier, kept) = split_chat(&model, &conversation(&messages), 70).unwrap();
    assert_eq!(earlier, "user: First question, long ago.\n\nassistant: First answer.\n\n");
    assert_eq!(kept, [&messages[..1], &messages[3..]].concat());
    // An answer is not kept without its question.
    let (earlier, kept) = split_chat(&model, &conversation(&messages), 50).unwrap();
    assert!(earlier.ends_with("user: Second?\n\nassistant: Yes.\n\n"), "{earlier}");
    assert_eq!(kept, [&messages[..1], &messages[5..]].concat());
    // Of a last message that is too long, the end.
    let long = [say("user", &"many words and then the question?".repeat(4))];
    let (earlier, kept) = split_chat(&model, &conversation(&long), 40).unwrap();
    assert_eq!([earlier.as_str(), &kept[0].content].concat(), long[0].content);
    assert!(kept[0].content.len() < 60 && kept[0].content.ends_with("question?"), "{kept:?}");
    // What the system says has its share of what is kept.
    let ruled = [say("system", &"Be brief. ".repeat(3)), long[0].clone()];
    let (_, kept) = split_chat(&model, &conversation(&ruled), 70).unwrap();
    assert!(kept[1].content.len() < 50 && kept[1].content.ends_with("question?"), "{kept:?}");
}

#[test]
fn the_last_paragraph_of_a_long_message_asks() {
    let model = chatty(PLAIN, false);
    let long = format!("{}\nWhat is the number of the boat?", "A line about nothing. ".repeat(40));
    let prompt = chat(&model, &[say("user", &long)], true).unwrap();
    assert_eq!(question(&model, &prompt), "What is the number of the boat?");
    let short = "A line.\nWhat is it?";
    let prompt = chat(&model, &[say("user", short)], true).unwrap();
    assert_eq!(question(&model, &prompt), short);
}
