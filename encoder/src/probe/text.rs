//! Ordinary text of our own for the probe: paragraphs about a small town, with facts among them and a question for each.
//!
//! Made by a grammar from a seed. No name, sentence or question of it is used by a bench.

use rand::{
    Rng as _, SeedableRng as _,
    seq::{IndexedRandom as _, SliceRandom as _},
};
use rand_chacha::ChaCha8Rng;

/// A sentence with something to ask about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    /// Where its sentence begins and ends in the text, in bytes.
    pub(super) span: std::ops::Range<usize>,
    pub(super) question: String,
    /// What a right answer contains.
    pub(super) answer: String,
}

/// The text and its facts, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProbeText {
    pub(super) text: String,
    pub(super) facts: Vec<Fact>,
}

/// Statement, question and answer; `{p}` stands for a place or person, `{a}` for the answer.
type Template = (&'static str, &'static str, Subject, &'static [&'static str]);

#[derive(Clone, Copy)]
enum Subject {
    Place,
    Person,
}

const TEMPLATES: &[Template] = &[
    (
        "The ferry to {p} leaves the pier at {a}.",
        "When does the ferry to {p} leave?",
        Subject::Place,
        &["ten past six", "half past four", "noon", "twenty to nine", "a quarter to three", "five past eight"],
    ),
    (
        "In the shed behind the chapel {p} repairs {a}.",
        "What is repaired by {p}?",
        Subject::Person,
        &["umbrellas", "typewriters", "clarinets", "bicycles", "clocks", "fishing nets"],
    ),
    (
        "The bakery in {p} is known for its {a}.",
        "What is the bakery in {p} known for?",
        Subject::Place,
        &["almond rolls", "rye bread", "plum cake", "ginger biscuits", "cheese pies", "walnut tarts"],
    ),
    (
        "For the winter fair {p} has promised to bring {a}.",
        "What did {p} promise to bring to the fair?",
        Subject::Person,
        &["a samovar", "two hundred lanterns", "a brass band", "hot chestnuts", "a puppet theatre", "blankets"],
    ),
    (
        "The mayor of {p} is a former {a}.",
        "What was the mayor of {p} before?",
        Subject::Place,
        &["dentist", "sailor", "botanist", "boxer", "beekeeper", "locksmith"],
    ),
    (
        "On the wall above the desk of {p} hangs a map of {a}.",
        "Which country does the map of {p} show?",
        Subject::Person,
        &["Iceland", "Bolivia", "Portugal", "Mongolia", "Kenya", "Finland"],
    ),
    (
        "The bridge at {p} was closed because of {a}.",
        "Why was the bridge at {p} closed?",
        Subject::Place,
        &["rust", "nesting storks", "a film crew", "high water", "a lost permit", "thick fog"],
    ),
    (
        "To everybody's surprise {p} named the new boat {a}.",
        "What is the name of the boat of {p}?",
        Subject::Person,
        &["Patience", "Thunderbird", "Marigold", "Second Chance", "Albatross", "Snowdrop"],
    ),
];

const PLACES: &[&str] = &[
    "Brennhaven",
    "Kelstow",
    "Ostermoor",
    "Little Arden",
    "Vilsund",
    "Harrowgate Sands",
    "Pennick",
    "Tolmark",
    "Ashby Ferrers",
    "Grindlewald",
    "Saltmere",
    "Rookhope",
    "Dunvale",
    "Eskerby",
    "Mirefield",
    "Castlebeck",
    "Norrland",
    "Wickering",
    "Fennimore",
    "Lowtherby",
    "Quillan",
    "Stanhope",
    "Thornbury",
    "Yarrowdale",
];
const PEOPLE: &[&str] = &[
    "Agnes Tolliver",
    "Benno Krause",
    "Clara Whitlock",
    "Dmitri Vasquez",
    "Edith Pomeroy",
    "Felix Oduya",
    "Greta Lindqvist",
    "Hamish Doyle",
    "Irena Novak",
    "Jonas Albrecht",
    "Katya Romero",
    "Lionel Grubb",
    "Maud Ferris",
    "Nils Haraldsen",
    "Oona Keating",
    "Pavel Stern",
    "Rosa Delgado",
    "Silas Crane",
    "Thea Bergman",
    "Ulrich Baum",
    "Vera Castellan",
    "Walter Pike",
    "Yasmin Haddad",
    "Zora Kent",
];

const WHO: &[&str] = &[
    "The postman",
    "A retired teacher",
    "My neighbour",
    "The younger of the two sisters",
    "The man from the ministry",
    "A student",
    "The woman at the counter",
    "Somebody from the council",
    "The night watchman",
    "A boy with a dog",
    "The choir master",
    "The owner of the inn",
    "A travelling salesman",
    "The new doctor",
    "An old friend",
];
const DID: &[&str] = &[
    "walked slowly along the river",
    "counted the boats in the harbour",
    "wrote a long letter home",
    "waited for the rain to stop",
    "bought apples at the market",
    "spoke about the price of coal",
    "left the door open all morning",
    "laughed at the newspaper",
    "painted the fence a second time",
    "looked for a missing glove",
    "told the story of the great storm",
    "slept through the concert",
    "carried a ladder across the square",
    "argued with the driver of the bus",
    "cooked soup for twelve people",
];
const WHEN: &[&str] = &[
    "before breakfast",
    "late in the evening",
    "on the first warm day of the year",
    "while the bells were ringing",
    "after the shops had closed",
    "as usual",
    "without saying a word",
    "in spite of the cold",
    "for the third time that week",
    "when nobody was looking",
    "during the long holidays",
    "just as the train came in",
];
const ASIDES: &[&str] = &[
    "It had been a dry summer, and the grass on the hills was yellow.",
    "Nothing of this was written down at the time.",
    "The wind came from the sea and smelled of salt and tar.",
    "People still speak of it, though fewer every year.",
    "The lamps along the quay were lit one after another.",
    "There was a smell of paint and coffee in the hall.",
    "One could hear the mill from far away.",
    "Prices had gone up again, and nobody could say why.",
    "The road was narrow there, with a ditch on either side.",
    "By then most of the snow had melted.",
    "The clock in the tower was slow, as it always had been.",
    "Two gulls sat on the roof and watched.",
    "In the end it did not matter very much.",
    "The children were the first to notice.",
];

impl ProbeText {
    /// About `bytes` of text with as many `facts`, at most one for each template and subject.
    pub(super) fn new(seed: u64, bytes: usize, facts: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut planned = planned(&mut random);
        planned.truncate(facts);
        let mut text = String::with_capacity(bytes + bytes / 8);
        let mut found = Vec::with_capacity(planned.len());
        let gap = bytes / planned.len().max(1);
        for (index, (statement, question, answer)) in planned.into_iter().enumerate() {
            while text.len() < gap * index + gap / 2 {
                paragraph(&mut random, &mut text);
            }
            // Within a paragraph: a sentence before and after it.
            sentence(&mut random, &mut text);
            let start = text.len();
            text.push_str(&statement);
            found.push(Fact { span: start..text.len(), question, answer });
            text.push(' ');
            paragraph(&mut random, &mut text);
        }
        while text.len() < bytes {
            paragraph(&mut random, &mut text);
        }
        Self { text, facts: found }
    }
}

/// Statements, questions and answers, templates in turn, each with subjects and answers of its own.
fn planned(random: &mut ChaCha8Rng) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    let (mut places, mut people) = (PLACES.to_vec(), PEOPLE.to_vec());
    places.shuffle(random);
    people.shuffle(random);
    let rounds = TEMPLATES.iter().map(|(_, _, _, answers)| answers.len()).min().unwrap_or(0);
    let mut shuffled: Vec<Vec<&str>> = TEMPLATES
        .iter()
        .map(|(_, _, _, answers)| {
            let mut answers = answers.to_vec();
            answers.shuffle(random);
            answers
        })
        .collect();
    for _ in 0..rounds {
        for ((statement, question, subject, _), answers) in TEMPLATES.iter().zip(&mut shuffled) {
            let subjects = match subject {
                Subject::Place => &mut places,
                Subject::Person => &mut people,
            };
            let (Some(subject), Some(answer)) = (subjects.pop(), answers.pop()) else { continue };
            let fill = |template: &str| template.replace("{p}", subject).replace("{a}", answer);
            all.push((fill(statement), fill(question), answer.to_owned()));
        }
    }
    all
}

fn sentence(random: &mut ChaCha8Rng, text: &mut String) {
    let pick =
        |random: &mut ChaCha8Rng, from: &'static [&'static str]| from.choose(random).copied().unwrap_or_default();
    if random.random_range(0..4) == 0 {
        text.push_str(pick(random, ASIDES));
    } else {
        let (who, did, when) = (pick(random, WHO), pick(random, DID), pick(random, WHEN));
        text.extend([who, " ", did, " ", when, "."]);
    }
    text.push(' ');
}

fn paragraph(random: &mut ChaCha8Rng, text: &mut String) {
    for _ in 0..random.random_range(3..7) {
        sentence(random, text);
    }
    text.pop();
    text.push_str("\n\n");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_seed_gives_one_text_and_every_fact_stands_in_it() {
        let text = ProbeText::new(7, 20_000, 32);
        assert_eq!(text, ProbeText::new(7, 20_000, 32));
        assert_ne!(text, ProbeText::new(8, 20_000, 32));
        assert_eq!(text.facts.len(), 32);
        for fact in &text.facts {
            let statement = &text.text[fact.span.clone()];
            assert!(statement.contains(&fact.answer), "{statement} {fact:?}");
            assert_eq!(text.text.matches(statement).count(), 1, "{statement}");
            assert!(!fact.question.contains(&fact.answer), "{fact:?}");
        }
        let (first, last) = (text.facts.first().unwrap(), text.facts.last().unwrap());
        assert!(first.span.start < 2_000 && last.span.start > 15_000, "facts stand at all depths");
        assert!((20_000..26_000).contains(&text.text.len()), "{}", text.text.len());
    }
}
