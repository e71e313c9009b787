//! BM25 (Robertson and Walker 1994) over lower-cased words.
//!
//! `score = sum over words w of the query: idf(w) * f * (k1 + 1) / (f + k1 * (1 - b + b * length / mean length))` with
//! `idf(w) = ln(1 + (n - n_w + 0.5) / (n_w + 0.5))`, `k1` 1.2 and `b` 0.75. A word is a run of letters and digits.

use std::collections::HashMap;

const K1: f64 = 1.2;
const B: f64 = 0.75;

/// Texts, ready to be scored.
#[derive(Debug, Default)]
pub(crate) struct Bm25 {
    /// Of each word: the texts that have it, and how often.
    postings: HashMap<String, Vec<(usize, u32)>>,
    /// Words of each text.
    lengths: Vec<u32>,
}

impl Bm25 {
    pub(crate) fn new<'t>(texts: impl IntoIterator<Item = &'t str>) -> Self {
        let mut index = Self::default();
        for (at, text) in texts.into_iter().enumerate() {
            let mut counts: HashMap<String, u32> = HashMap::new();
            for word in words(text) {
                *counts.entry(word).or_default() += 1;
            }
            index.lengths.push(counts.values().sum());
            for (word, count) in counts {
                index.postings.entry(word).or_default().push((at, count));
            }
        }
        index
    }

    /// The texts that share a word with the query, best first; equal ones in their order.
    pub(crate) fn rank(&self, query: &str) -> Vec<usize> {
        let n = self.lengths.len() as f64;
        let mean = self.lengths.iter().map(|&l| f64::from(l)).sum::<f64>() / n.max(1.0);
        let mut scores: HashMap<usize, f64> = HashMap::new();
        for word in words(query) {
            let Some(postings) = self.postings.get(&word) else { continue };
            let having = postings.len() as f64;
            let idf = (1.0 + (n - having + 0.5) / (having + 0.5)).ln();
            for &(text, count) in postings {
                let (count, length) = (f64::from(count), f64::from(self.lengths[text]));
                let part = idf * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length / mean));
                *scores.entry(text).or_default() += part;
            }
        }
        let mut ranked: Vec<(usize, f64)> = scores.into_iter().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked.into_iter().map(|(text, _)| text).collect()
    }
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_words_and_short_texts_count_more() {
        let texts = ["The cat sat.", "The dog and the cat sat on the mat with the rat.", "A bird.", "The mat."];
        let index = Bm25::new(texts);
        assert_eq!(index.rank("cat"), [0, 1]);
        assert_eq!(index.rank("The BIRD!")[0], 2);
        assert!(index.rank("whale").is_empty());
    }

    #[test]
    fn a_word_twice_in_the_query_counts_twice() {
        let index = Bm25::new(["a b", "c d", "a c"]);
        assert_eq!(index.rank("a c"), [2, 0, 1]);
        // ln(8/3) for the word of one text, ln(8/5) twice for the word of two.
        assert_eq!(index.rank("d a"), [1, 0, 2]);
        assert_eq!(index.rank("d a a a"), [0, 2, 1]);
    }

    #[test]
    fn nothing_is_ranked_in_nothing() {
        assert!(Bm25::new([]).rank("a").is_empty());
    }
}
