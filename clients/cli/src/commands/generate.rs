//! `mnemon generate`: text as it comes, then what it drew on.

use std::time::Duration;

use anyhow::Result;
use mnemon_client::{Generated, v1};
use serde_json::json;

use crate::args::{Generate, Global};
use crate::input::text_or_stdin;
use crate::render::{Ink, Ui, duration, harmless, plural};
use crate::{json, passages};

pub(crate) async fn run(args: Generate, global: &Global, ui: &Ui) -> Result<()> {
    let request = request(&args)?;
    let client = super::connect(global).await?;
    let answer = client.generate(request).await?;
    let (text, token_ids, finish) = follow(answer, ui).await?;
    if ui.json() {
        let usage = finish.usage.unwrap_or_default();
        return Ok(ui.value(&json!({
            "text": text,
            "token_ids": token_ids,
            "finish_reason": json::finish(finish.reason()),
            "usage": json::usage(&usage),
            "citations": json::citations(&finish.citations),
            "mode": json::mode(finish.mode()),
            "passages": json::chunks(&finish.passages),
        }))?);
    }
    if !text.ends_with('\n') {
        ui.line("")?;
    }
    if ui.quiet() {
        return Ok(());
    }
    ui.line("")?;
    if !args.recall.no_memory {
        passages::citations(ui, &finish.citations)?;
        ui.line("")?;
    }
    Ok(ui.paragraph(Some(Ink::Dim), &closing(&finish))?)
}

fn request(args: &Generate) -> Result<v1::GenerateRequest> {
    let text = text_or_stdin(&args.prompt)?;
    let (prompt, messages) = if args.chat {
        (String::new(), vec![v1::ChatMessage { role: "user".to_owned(), content: text, ..v1::ChatMessage::default() }])
    } else {
        (text, Vec::new())
    };
    Ok(v1::GenerateRequest {
        prompt,
        messages,
        memory: Some(super::memory_options(&args.memories.0, &args.recall)?),
        max_tokens: Some(args.max_tokens),
        sampling: Some(v1::SamplingOptions {
            temperature: Some(args.temperature),
            top_k: args.top_k,
            top_p: args.top_p,
            repetition_penalty: args.repetition_penalty,
            seed: Some(args.seed),
        }),
        stop: args.stop.clone(),
        control_tokens: args.control_tokens,
        ..v1::GenerateRequest::default()
    })
}

/// Shows the text while it comes, unless it is for a program; returns all of it.
async fn follow(mut answer: Generated, ui: &Ui) -> Result<(String, Vec<u32>, v1::GenerateFinish)> {
    let (mut text, mut token_ids, mut finish) = (String::new(), Vec::new(), v1::GenerateFinish::default());
    while let Some(piece) = answer.message().await? {
        if !ui.json() && !piece.text.is_empty() {
            if ui.out_is_terminal() {
                ui.piece(&harmless(&piece.text))?;
            } else {
                ui.piece(&piece.text)?;
            }
        }
        text.push_str(&piece.text);
        token_ids.extend(piece.token_ids);
        finish = piece.finish.unwrap_or(finish);
    }
    Ok((text, token_ids, finish))
}

/// One line on what it took.
fn closing(finish: &v1::GenerateFinish) -> String {
    let usage = finish.usage.unwrap_or_default();
    let end = match finish.reason() {
        v1::FinishReason::EndOfText => "the model ended",
        v1::FinishReason::MaxTokens => "--max-tokens reached",
        v1::FinishReason::StopString => "stopped at --stop",
        v1::FinishReason::Unspecified => "ended",
    };
    format!(
        "{} at {:.1} ms each; prompt of {} in {}; {} recalled; {end}",
        plural(usage.generated_tokens.into(), "token"),
        usage.decode_ms_per_token,
        plural(usage.prompt_tokens.into(), "token"),
        duration(Duration::from_secs_f64((usage.prefill_ms / 1e3).max(0.0))),
        plural(usage.recalled_chunks.into(), "passage"),
    )
}
