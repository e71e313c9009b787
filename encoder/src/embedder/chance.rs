//! How like each other texts are by chance, to an embedder: some never come near 0, others do.

use super::Embedder;
use crate::error::Result;

/// Everyday questions, none of which any of the [`SENTENCES`] answers.
const QUESTIONS: [&str; 16] = [
    "Which train did the nurse take to the coast?",
    "How long does the soup have to simmer?",
    "Who repaired the roof of the school?",
    "Why was the concert moved to Thursday?",
    "Where are the spare keys of the office kept?",
    "What colour will the kitchen walls be?",
    "When does the swimming pool open again?",
    "Which plants can stay outside in winter?",
    "Who won the chess match on the ship?",
    "How much did the second violin cost?",
    "What did the lawyer forget at the hotel?",
    "Where did the two brothers go fishing?",
    "Which medicine should be taken before breakfast?",
    "Why did the printer stop working?",
    "What was written on the back of the photograph?",
    "How many people live in the lighthouse?",
];

const SENTENCES: [&str; 16] = [
    "The goats had eaten every cabbage in the lower garden.",
    "Interest rates fell for the third month in a row.",
    "A cracked pipe had flooded the cellar overnight.",
    "Her grandfather built harpsichords in a shed by the canal.",
    "The glacier has lost a third of its ice since the survey began.",
    "Nobody at the border asked to see his passport.",
    "The recipe calls for two eggs and a little saffron.",
    "They painted the old bus yellow and drove it across the desert.",
    "The verdict surprised even the prosecutor.",
    "Bees find their way home by the angle of the sun.",
    "The new bridge will carry trams as well as bicycles.",
    "He keeps his stamps in a biscuit tin under the bed.",
    "The orchestra refused to play without heating.",
    "Snow had closed the pass for eleven days.",
    "The update deletes files that are older than a year.",
    "My cousin teaches geometry at a school for pilots.",
];

/// Cosine of texts that say the same to any embedder.
const THE_SAME: f32 = 0.98;

/// Cosines of questions and sentences that have nothing to do with each other.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Chance {
    mean: f32,
    deviation: f32,
}

impl Chance {
    /// Measures an embedder.
    pub(super) fn measure(embedder: &Embedder) -> Result<Self> {
        let (questions, sentences) = (embedder.embed(&QUESTIONS)?, embedder.embed(&SENTENCES)?);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let pairs: Vec<f32> = questions.iter().flat_map(|a| sentences.iter().map(|b| dot(a, b))).collect();
        let mean = pairs.iter().sum::<f32>() / pairs.len() as f32;
        let variance = pairs.iter().map(|cosine| (cosine - mean).powi(2)).sum::<f32>() / pairs.len() as f32;
        Ok(Self { mean, deviation: variance.sqrt() })
    }

    /// What the best of so many texts that have nothing to do with a question reaches: for normal deviates, which cosines nearly are, `sqrt(2 ln n)`
    /// deviations above the mean; below what says the same.
    pub(super) fn best_of(self, texts: u64) -> f32 {
        (self.mean + self.deviation * (2.0 * (texts.max(2) as f32).ln()).sqrt()).min(THE_SAME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_texts_reach_more() {
        let chance = Chance { mean: 0.1, deviation: 0.1 };
        assert!((chance.best_of(1000) - 0.471_7).abs() < 1e-3);
        assert!(chance.best_of(10) < chance.best_of(100));
        assert!(chance.best_of(0).is_finite());
        assert!(Chance { mean: 0.9, deviation: 0.1 }.best_of(1000) < 1.0);
    }
}
