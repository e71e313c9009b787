//! Which passages a question wants.

use super::super::select::{Attention, likeness, rank};
use super::super::{Passage, PassageOptions, Selection, select};
use super::*;

/// Query heads to a key head.
const GROUP: usize = 2;

/// A profile of query heads with two values each.
fn heads(weights: &[((u32, u32), f32)]) -> Profile {
    let head = |&((layer, head), weight): &((u32, u32), f32)| SearchHead {
        query: QueryHead { layer, head },
        weight,
        mean: vec![0.0; 2],
        reciprocal_rank: 1.0,
    };
    Profile {
        version: PROFILE_VERSION,
        model: Fingerprint([0; 32]),
        model_name: String::new(),
        seed: 0,
        kv_layers: Vec::new(),
        search: weights.iter().map(head).collect(),
        attention_weight: 1.0,
        lexical_weight: 0.0,
        passages: 10,
        neighbours: 0,
        mode: RecallMode::Reread,
        mode_of_several: None,
        extents: crate::profile::Extents::default(),
        measured: crate::profile::Measured::default(),
    }
}

/// Each of these terms is a word.
fn words_of(terms: &[Vec<u32>]) -> Vec<Vec<usize>> {
    (0..terms.len()).map(|term| vec![term]).collect()
}

/// Chunks by score, before passages are made of them.
fn found(shelf: &Shelf, profile: &Profile, queries: &[f32], terms: &[Vec<u32>]) -> Vec<(u64, f32)> {
    let selection = Selection { queries, words: &[], terms, term_words: &words_of(terms), group: GROUP };
    let attention = Attention::search(shelf, profile, &selection, &PassageOptions::default()).unwrap();
    let (words, _) = likeness(shelf, profile, &selection).unwrap();
    rank(profile, attention.as_ref(), &words).into_iter().map(|(chunk, score)| (chunk.0, score)).collect()
}

/// Chunks that become passages, without neighbours.
fn passages(shelf: &Shelf, profile: &Profile, queries: &[f32]) -> Vec<u64> {
    let selection = Selection { queries, words: &[], terms: &[], term_words: &[], group: GROUP };
    let passages = select(shelf, profile, &selection, &PassageOptions::default()).unwrap().passages;
    passages.iter().map(|passage| passage.found.0).collect()
}

fn ids(found: &[(u64, f32)]) -> Vec<u64> {
    found.iter().map(|(id, _)| *id).collect()
}

/// Two key heads: the first is sure of chunk 0, the second of chunk 1, and both like chunk 2.
fn divided() -> Shelf {
    let chunk = |first: f32, second: f32| vec![vec![first, 0.0], vec![second, 0.0]];
    Shelf::by_hand(&[(0, 0), (1, 0)], 2, &[chunk(9.0, -9.0), chunk(-9.0, 9.0), chunk(8.0, 8.0), chunk(-9.0, -9.0)])
}

#[test]
fn what_several_heads_agree_on_comes_first() {
    let (shelf, both) = (divided(), heads(&[((0, 0), 1.0), ((1, 1), 1.0)]));
    let query = [1.0, 0.0, 1.0, 0.0];
    let order = found(&shelf, &both, &query, &[]);
    assert_eq!(order[0].0, 2, "{order:?}");
    assert_eq!(ids(&order)[1..3], [0, 1], "equal ones by their numbers: {order:?}");
    assert!((order[1].1 - order[2].1).abs() < 1e-9);
    assert!(order.iter().all(|(_, score)| *score > 0.0 && score.is_finite()), "{order:?}");
    // The geometric mean of shares, with a floor.
    let share = |of: f32, others: [f32; 3]| {
        let e = |score: f32| (score / 2.0_f32.sqrt()).exp();
        e(of) / (e(of) + others.iter().map(|score| e(*score)).sum::<f32>())
    };
    let wanted = share(8.0, [9.0, -9.0, -9.0]) + 1e-4;
    assert!((order[0].1 - wanted).abs() < 1e-4, "{} {wanted}", order[0].1);
    // A head that weighs more has its way.
    let first = heads(&[((0, 0), 50.0), ((1, 1), 1.0)]);
    assert_eq!(ids(&found(&shelf, &first, &query, &[]))[0], 0);
    let second = heads(&[((0, 0), 1.0), ((1, 1), 50.0)]);
    assert_eq!(ids(&found(&shelf, &second, &query, &[]))[0], 1);
}

/// Four chunks, each with a direction of its own; the last looks much like the first.
fn four() -> Shelf {
    let chunk = |key: [f32; 3]| vec![key.to_vec()];
    Shelf::by_hand(
        &[(0, 0)],
        3,
        &[chunk([9.0, 0.0, 0.0]), chunk([0.0, 8.0, 0.0]), chunk([0.0, 0.0, 1.0]), chunk([7.0, 0.0, 0.0])],
    )
}

fn one_head(shelf: &Shelf) -> Profile {
    let mut profile = heads(&[((0, 0), 1.0)]);
    profile.search[0].mean = vec![0.0; shelf.geometry.head_dim as usize];
    profile
}

#[test]
fn a_question_about_two_things_gets_a_passage_for_each() {
    let shelf = four();
    let queries = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0];
    // The first chunk shares the attention of its tokens with the last, so the second comes before it; nothing asks for the third.
    assert_eq!(passages(&shelf, &one_head(&shelf), &queries), [1, 0]);
}

#[test]
fn a_word_that_a_passage_has_asks_for_no_other_passage() {
    let mut shelf = four();
    shelf.infos[1].tokens = vec![20, 21];
    // Both words of the question are attended to elsewhere too.
    let queries = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0];
    let chosen = |words: &[Vec<u32>]| {
        let selection = Selection { queries: &queries, words, terms: &[], term_words: &[], group: GROUP };
        let passages = select(&shelf, &one_head(&shelf), &selection, &PassageOptions::default()).unwrap().passages;
        passages.iter().map(|passage| passage.found.0).collect::<Vec<_>>()
    };
    assert_eq!(chosen(&[]), [1, 0]);
    assert_eq!(chosen(&[vec![20], vec![9, 21], vec![], vec![], vec![]]), [1]);
    assert_eq!(chosen(&[vec![7], vec![], vec![20], vec![], vec![]]), [1, 0], "other words");
}

#[test]
fn a_question_about_one_thing_is_not_shown_what_looks_like_it() {
    let shelf = four();
    let queries = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0];
    assert_eq!(passages(&shelf, &one_head(&shelf), &queries), [0]);
}

/// Three hundred chunks of which the third and the fourth have words; all that asks attends to the third.
fn with_words(third: &[u32], fourth: &[u32], terms: &[u32], queries: &[f32]) -> Vec<u64> {
    let mut chunks = vec![vec![vec![0.0, 0.0]]; 300];
    chunks[2] = vec![vec![9.0, 0.0]];
    chunks[3] = vec![vec![2.0, 8.0]];
    let mut shelf = Shelf::by_hand(&[(0, 0)], 2, &chunks);
    shelf.infos[2].tokens = third.to_vec();
    shelf.infos[3].tokens = fourth.to_vec();
    let profile = Profile { lexical_weight: 0.01, ..one_head(&shelf) };
    let terms: Vec<Vec<u32>> = terms.iter().map(|term| vec![*term]).collect();
    let selection = Selection { queries, words: &[], terms: &terms, term_words: &words_of(&terms), group: GROUP };
    let passages = select(&shelf, &profile, &selection, &PassageOptions::default()).unwrap().passages;
    passages.iter().map(|passage| passage.found.0).collect()
}

#[test]
fn a_passage_with_the_same_words_is_shown_too() {
    let one = [1.0, 0.0];
    assert_eq!(with_words(&[20, 21, 22], &[20, 21, 22], &[20, 21, 22], &one), [2, 3], "it may say something later");
    assert_eq!(with_words(&[20, 21, 22], &[20, 22], &[20, 21, 22], &one), [2], "about something else");
    assert_eq!(with_words(&[20, 21], &[20, 21], &[20, 21, 22], &one), [2, 3]);
    assert_eq!(with_words(&[20], &[20], &[20, 21], &one), [2], "one word may be chance");
    assert_eq!(with_words(&[20], &[20], &[20], &one), [2, 3], "but is all of the question");
    assert_eq!(with_words(&[20, 21], &[20, 21], &[], &one), [2], "where no words ask");
}

#[test]
fn of_many_statements_the_last_comes_after_the_best() {
    let mut chunks = vec![vec![vec![0.0, 0.0]]; 300];
    chunks[7] = vec![vec![9.0, 0.0]];
    let mut shelf = Shelf::by_hand(&[(0, 0)], 2, &chunks);
    for chunk in [2, 7, 9, 11, 12] {
        shelf.infos[chunk].tokens = vec![20, 21];
    }
    let profile = Profile { lexical_weight: 0.01, ..one_head(&shelf) };
    let terms = [20, 21].map(|term| vec![term]);
    let selection =
        Selection { queries: &[1.0, 0.0], words: &[], terms: &terms, term_words: &words_of(&terms), group: GROUP };
    let passages = select(&shelf, &profile, &selection, &PassageOptions::default()).unwrap().passages;
    assert_eq!(passages.iter().map(|passage| passage.found.0).collect::<Vec<_>>(), [7, 12, 11, 9, 2]);
}

#[test]
fn what_shares_a_word_by_chance_gives_way() {
    let one = [1.0, 0.0];
    assert_eq!(with_words(&[20], &[20, 21, 22], &[20, 21, 22], &one), [3], "to what has all");
    assert_eq!(with_words(&[20], &[21, 22], &[20, 21, 22], &one)[0], 2, "not to what has others");
    assert_eq!(with_words(&[20, 21], &[20, 21, 22], &[20, 21, 22], &one)[0], 2, "two words are no chance");
}

#[test]
fn a_statement_that_goes_on_in_the_next_chunk_is_shown_too() {
    let found = |next: &[u32]| {
        let mut chunks = vec![vec![vec![0.0, 0.0]]; 300];
        chunks[2] = vec![vec![9.0, 0.0]];
        let mut shelf = Shelf::by_hand(&[(0, 0)], 2, &chunks);
        for (chunk, tokens) in [(2, &[20, 21, 22][..]), (7, &[20, 21]), (8, next)] {
            shelf.infos[chunk].tokens = tokens.to_vec();
        }
        let profile = Profile { neighbours: 1, lexical_weight: 0.01, ..one_head(&shelf) };
        let terms = [20, 21, 22].map(|term| vec![term]);
        let selection =
            Selection { queries: &[1.0, 0.0], words: &[], terms: &terms, term_words: &words_of(&terms), group: GROUP };
        let passages = select(&shelf, &profile, &selection, &PassageOptions::default()).unwrap().passages;
        passages.iter().map(|passage| passage.found.0).collect::<Vec<_>>()
    };
    assert_eq!(found(&[3]), [2], "two of three words");
    assert_eq!(found(&[22, 3]), [2, 7], "it goes on");
    assert_eq!(found(&[[3; 16].as_slice(), &[22]].concat()), [2], "too far away");
}

#[test]
fn a_further_passage_adds_words() {
    let both = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
    assert_eq!(with_words(&[20, 21], &[22, 23], &[20, 21, 22, 23], &both), [2, 3]);
    assert_eq!(with_words(&[20, 21, 22, 3], &[22, 3], &[20, 21, 22, 3], &both), [2], "none that is new");
    assert_eq!(with_words(&[20, 21], &[3], &[20, 21, 3], &both), [2], "one that all chunks have");
    assert_eq!(with_words(&[20, 21], &[22], &[], &both), [2, 3], "where no words ask");
}

#[test]
fn what_covers_most_and_adds_no_words_hides_nothing() {
    let mut chunks = vec![vec![vec![0.0, 0.0]]; 9];
    chunks[2] = vec![vec![9.0, 0.0]];
    chunks[3] = vec![vec![2.0, 8.0]];
    chunks[4] = vec![vec![2.0, 7.5]];
    let mut shelf = Shelf::by_hand(&[(0, 0)], 2, &chunks);
    for (chunk, tokens) in [(2, [20, 21]), (3, [3, 4]), (4, [22, 23])] {
        shelf.infos[chunk].tokens = tokens.to_vec();
    }
    let profile = Profile { lexical_weight: 0.01, ..one_head(&shelf) };
    let terms = [20, 21, 22, 23].map(|term| vec![term]);
    let queries = &[1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
    let selection = Selection { queries, words: &[], terms: &terms, term_words: &words_of(&terms), group: GROUP };
    let passages = select(&shelf, &profile, &selection, &PassageOptions::default()).unwrap().passages;
    assert_eq!(passages.iter().map(|passage| passage.found.0).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn two_names_are_found_though_a_passage_has_a_part_of_each() {
    // All that asks attends to the third chunk, which has one part of either name; the names, and what is asked of them, stand in others.
    let found = |second_name: [&[u32]; 2]| {
        let mut chunks = vec![vec![vec![0.0, 0.0]]; 300];
        chunks[2] = vec![vec![9.0, 0.0]];
        let mut shelf = Shelf::by_hand(&[(0, 0)], 2, &chunks);
        let [fourth, fifth] = second_name;
        for (chunk, tokens) in [(2, &[20, 22, 24, 25][..]), (7, &[20, 21, 24, 25]), (20, fourth), (21, fifth)] {
            shelf.infos[chunk].tokens = tokens.to_vec();
        }
        let profile = Profile { neighbours: 1, lexical_weight: 0.01, ..one_head(&shelf) };
        let terms = [20, 21, 22, 23, 24, 25].map(|term| vec![term]);
        let term_words = [vec![0, 1], vec![2, 3], vec![4], vec![5]];
        let words: Vec<Vec<u32>> = terms[..4].to_vec();
        let queries = [1.0, 0.0].repeat(4);
        let selection =
            Selection { queries: &queries, words: &words, terms: &terms, term_words: &term_words, group: GROUP };
        let passages = select(&shelf, &profile, &selection, &PassageOptions::default()).unwrap().passages;
        passages.iter().map(|passage| passage.found.0).collect::<Vec<_>>()
    };
    assert_eq!(found([&[22, 23, 24, 25], &[3]]), [2, 7, 20]);
    assert_eq!(found([&[24, 25, 22], &[23, 3]]), [2, 7, 20], "a name that stands across a border");
    assert_eq!(found([&[22, 3, 24], &[3]]), [2, 7], "a part of a name");
}

#[test]
fn mean_queries_are_subtracted() {
    let shelf = Shelf::by_hand(&[(0, 0)], 2, &[vec![vec![5.0, 0.0]], vec![vec![0.0, 5.0]]]);
    let mut profile = heads(&[((0, 1), 1.0)]);
    let query = [3.0, 1.0];
    assert_eq!(ids(&found(&shelf, &profile, &query, &[])), [0, 1]);
    profile.search[0].mean = vec![3.0, 0.0];
    assert_eq!(ids(&found(&shelf, &profile, &query, &[])), [1, 0]);
}

#[test]
fn every_token_that_asks_has_the_same_say() {
    let shelf = Shelf::by_hand(&[(0, 0)], 2, &[vec![vec![9.0, 0.0]], vec![vec![0.0, 9.0]]]);
    let profile = heads(&[((0, 0), 1.0)]);
    // One token that shouts, two that speak.
    let order = found(&shelf, &profile, &[100.0, 0.0, 0.0, 2.0, 0.0, 2.0], &[]);
    assert_eq!(order[0].0, 1, "{order:?}");
    assert!((order[0].1 - 2.0 / 3.0).abs() < 1e-3 && (order[1].1 - 1.0 / 3.0).abs() < 1e-3, "{order:?}");
}

#[test]
fn words_are_a_factor() {
    let key = |x: f32| vec![vec![x, 0.0]];
    let mut shelf = Shelf::by_hand(&[(0, 0)], 2, &[key(3.0), key(2.5)]);
    shelf.infos[1].tokens = vec![40, 41];
    let mut profile = heads(&[((0, 0), 1.0)]);
    let terms = [vec![40], vec![41, 42]];
    assert_eq!(ids(&found(&shelf, &profile, &[1.0, 0.0], &terms)), [0, 1], "not where they count nothing");
    profile.lexical_weight = 1.0;
    let order = found(&shelf, &profile, &[1.0, 0.0], &terms);
    assert_eq!(ids(&order), [1, 0]);
    // Words alone, where no head is good enough: what shares none is not found.
    profile.attention_weight = 0.0;
    let order = found(&shelf, &profile, &[1.0, 0.0], &terms);
    assert_eq!(ids(&order), [1]);
    assert!((order[0].1 - 1.1).abs() < 1e-5, "{order:?}");
    assert!(found(&shelf, &profile, &[1.0, 0.0], &[]).is_empty());
}

#[test]
fn heads_without_entries_are_left_out() {
    let (shelf, query) = (divided(), [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
    // Of three heads the memory has entries for the middle one.
    let some = heads(&[((7, 0), 5.0), ((1, 1), 1.0), ((0, 2), 5.0)]);
    let alone = found(&shelf, &heads(&[((1, 1), 1.0)]), &[1.0, 0.0], &[]);
    assert_eq!(found(&shelf, &some, &query, &[]), alone);
    assert_eq!(alone[0].0, 1);
    // Of none: words alone.
    let mut none = heads(&[((7, 0), 1.0), ((7, 1), 1.0)]);
    assert!(found(&shelf, &none, &query[..4], &[vec![3]]).is_empty(), "words that count nothing find nothing");
    none.lexical_weight = 0.25;
    assert_eq!(found(&shelf, &none, &query[..4], &[vec![3]]).len(), 4);
}

#[test]
fn a_question_without_tokens_finds_nothing() {
    let (shelf, mut profile) = (divided(), heads(&[((0, 0), 1.0), ((1, 1), 1.0)]));
    profile.lexical_weight = 0.5;
    assert!(found(&shelf, &profile, &[], &[]).is_empty());
    assert_eq!(found(&shelf, &profile, &[], &[vec![3]]).len(), 4, "but words may");
    let empty = Shelf::by_hand(&[(0, 0), (1, 0)], 2, &[]);
    assert!(found(&empty, &profile, &[1.0, 0.0, 1.0, 0.0], &[vec![3]]).is_empty());
}

/// Chunk found, all chunks, and those shown as a whole.
fn parts(passages: &[Passage]) -> Vec<(u64, Vec<u64>, Vec<u64>)> {
    let numbers = |chunks: &[ChunkId]| chunks.iter().map(|id| id.0).collect::<Vec<_>>();
    passages.iter().map(|p| (p.found.0, p.chunks.iter().map(|info| info.id.0).collect(), numbers(&p.core))).collect()
}

#[test]
fn a_passage_grows_by_a_neighbour_that_is_found_itself() {
    let far = vec![vec![0.0, 0.0]];
    let shelf = Shelf::by_hand(
        &[(0, 0)],
        2,
        &[far.clone(), far.clone(), vec![vec![9.0, 0.0]], vec![vec![0.0, 8.0]], far.clone(), far],
    );
    let profile = Profile { neighbours: 1, ..one_head(&shelf) };
    let selection = Selection {
        queries: &[1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0],
        words: &[],
        terms: &[],
        term_words: &[],
        group: GROUP,
    };
    let chosen = select(&shelf, &profile, &selection, &PassageOptions::default()).unwrap().passages;
    assert_eq!(parts(&chosen), [(2, vec![1, 2, 3, 4], vec![2, 3])]);
}

#[test]
fn neighbours_come_along_and_never_twice() {
    let chunks: Vec<_> = (0..12).map(|at| vec![vec![[0.0, 1.0, 9.0, 8.0, 0.5][(at % 5) as usize], 0.0]]).collect();
    let mut shelf = Shelf::by_hand(&[(0, 0)], 2, &chunks);
    // Two documents: 0 to 6 and 7 to 11.
    for (at, info) in shelf.infos.iter_mut().enumerate() {
        info.document = u64::from(at >= 7);
        // What is best of both says something about the same.
        info.tokens = if at % 5 == 2 { vec![20, 21] } else { vec![3] };
    }
    let profile = Profile { neighbours: 1, passages: 3, lexical_weight: 0.01, ..heads(&[((0, 0), 1.0)]) };
    let terms = [vec![20], vec![21]];
    let chosen = |options: &PassageOptions| {
        let selection =
            Selection { queries: &[1.0, 0.0], words: &[], terms: &terms, term_words: &words_of(&terms), group: GROUP };
        select(&shelf, &profile, &selection, options).unwrap().passages
    };
    let plain = chosen(&PassageOptions { neighbours: Some(1), ..PassageOptions::default() });
    let chunks: Vec<Vec<u64>> = plain.iter().map(|p| p.chunks.iter().map(|info| info.id.0).collect()).collect();
    // 2 and 7 are best; 3 and 8 came along with them; 6 is next, 5 beside it, 7 is taken already.
    assert_eq!(chunks[..2], [vec![1, 2, 3], vec![7, 8]]);
    // Of neighbours that only complete sentences, none is shown as a whole.
    assert_eq!(parts(&chosen(&PassageOptions::default())), [(2, vec![1, 2, 3], vec![2]), (7, vec![7, 8], vec![7])]);
    for passages in 1..12 {
        for neighbours in 0..4 {
            let options =
                PassageOptions { passages: Some(passages), neighbours: Some(neighbours), ..PassageOptions::default() };
            let chosen = chosen(&options);
            assert!(chosen.len() <= passages);
            let mut all: Vec<ChunkId> = chosen.iter().flat_map(|passage| &passage.chunks).map(|info| info.id).collect();
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count, "{passages} {neighbours}: {chosen:?}");
            for passage in &chosen {
                assert!(passage.holds(passage.found), "{passage:?}");
                assert!(passage.chunks.len() <= 2 * neighbours + 1);
                // Consecutive, of one document.
                let places: Vec<u64> = passage.chunks.iter().map(|info| info.id.0).collect();
                assert!(places.windows(2).all(|pair| pair[1] == pair[0] + 1), "{places:?}");
                assert!(places.iter().all(|at| (*at >= 7) == (places[0] >= 7)), "{places:?}");
            }
            assert!(chosen.windows(2).all(|pair| pair[0].score >= pair[1].score));
        }
    }
}
