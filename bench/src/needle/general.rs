//! Questions of general knowledge, which no memory is needed for: what a memory that has nothing to say does to answers.

use super::templates::Split;

/// Questions to develop with, as [`FINAL`].
const DEV: [&str; 60] = [
    "Which city is the capital of Poland?|Warsaw",
    "Which city is the capital of Sweden?|Stockholm",
    "Which city is the capital of Hungary?|Budapest",
    "Which city is the capital of Denmark?|Copenhagen",
    "Which city is the capital of Cuba?|Havana",
    "Which city is the capital of Turkey?|Ankara",
    "How much is 4 plus 4?|8;eight",
    "How much is 15 minus 5?|10;ten",
    "How much is 8 times 8?|64;sixty-four",
    "How much is 30 divided by 3?|10;ten",
    "How much is 50 plus 50?|100;hundred",
    "How much is twice 11?|22;twenty-two",
    "Name the opposite of cold.|hot;warm",
    "Name the opposite of high.|low",
    "Name the opposite of slow.|fast;quick",
    "Name the opposite of strong.|weak",
    "Name the opposite of rich.|poor",
    "Name the opposite of happy.|sad;unhappy",
    "Which animal neighs?|horse;horses",
    "Which animal is called the king of the jungle?|lion;lions",
    "Which animal has a trunk?|elephant;elephants",
    "Which animal lays the eggs that people eat for breakfast?|chicken;chickens;hen;hens",
    "How do we call a young sheep?|lamb",
    "How do we call a young horse?|foal",
    "How many wheels does a bicycle have?|2;two",
    "How many wheels does a car have?|4;four",
    "How many fingers are on one hand?|5;five",
    "How many legs does a dog have?|4;four",
    "How many weeks are in a year?|52;fifty-two",
    "How many days are in a year?|365",
    "How many cents are in a dollar?|100;hundred",
    "How many strings does a violin have?|4;four",
    "Tell me the day that comes after Friday.|Saturday",
    "Tell me the month that comes after March.|April",
    "Tell me the season that comes after summer.|autumn;fall",
    "Tell me the colour of coal.|black",
    "Tell me the colour of a lemon.|yellow",
    "Tell me the colour of the leaves of a tree in summer.|green",
    "Tell me the chemical symbol of hydrogen.|H;H2",
    "Tell me the chemical symbol of iron.|Fe",
    "Tell me the planet with the famous rings.|Saturn",
    "What does a thermometer measure?|temperature;heat",
    "What does a clock show?|time",
    "What do bees collect from flowers?|nectar;pollen",
    "What do we call the natural satellite of the Earth?|moon",
    "What is the main language of France?|French",
    "What is the main language of Germany?|German",
    "What is the main language of Japan?|Japanese",
    "What is the currency of the United States?|dollar;dollars",
    "What is the currency of Japan?|yen",
    "On which continent does one find Egypt?|Africa",
    "On which continent does one find China?|Asia",
    "Who painted the Mona Lisa?|Leonardo;Vinci",
    "Who wrote Hamlet?|Shakespeare",
    "Who was the first man on the moon?|Armstrong",
    "Who discovered America in 1492?|Columbus",
    "Which metal is liquid at room temperature?|mercury",
    "Which organ pumps the blood?|heart",
    "Which sense do we use our ears for?|hearing;hear",
    "Which fruit is wine made of?|grape;grapes",
];

/// Questions to judge with: each, and after `|` what one of must be said, apart by `;`.
const FINAL: [&str; 100] = [
    "What is the capital of France?|Paris",
    "What is the capital of Japan?|Tokyo",
    "What is the capital of Italy?|Rome",
    "What is the capital of Spain?|Madrid",
    "What is the capital of Germany?|Berlin",
    "What is the capital of Egypt?|Cairo",
    "What is the capital of Canada?|Ottawa",
    "What is the capital of Russia?|Moscow",
    "What is the capital of China?|Beijing",
    "What is the capital of Greece?|Athens",
    "What is the capital of Portugal?|Lisbon",
    "What is the capital of Austria?|Vienna",
    "What is the capital of Ireland?|Dublin",
    "What is the capital of Norway?|Oslo",
    "What is the capital of Australia?|Canberra",
    "What is 2 plus 3?|5;five",
    "What is 7 plus 8?|15;fifteen",
    "What is 10 minus 4?|6;six",
    "What is 6 times 7?|42;forty-two",
    "What is 9 times 9?|81;eighty-one",
    "What is 20 divided by 5?|4;four",
    "What is 100 minus 1?|99;ninety-nine",
    "What is 12 plus 12?|24;twenty-four",
    "What is half of 50?|25;twenty-five",
    "What is 3 times 5?|15;fifteen",
    "What is the square root of 16?|4;four",
    "What is 1000 plus 1?|1001",
    "What is the opposite of hot?|cold;cool",
    "What is the opposite of up?|down",
    "What is the opposite of big?|small;little",
    "What is the opposite of light, as a word about weight?|heavy",
    "What is the opposite of day?|night",
    "What is the opposite of left?|right",
    "What is the opposite of open?|closed;close;shut",
    "What is the opposite of early?|late",
    "What is the opposite of wet?|dry",
    "What is the opposite of full?|empty",
    "What is the opposite of old?|young;new",
    "What is the opposite of love?|hate;hatred",
    "Which animal barks?|dog;dogs",
    "Which animal says meow?|cat;cats",
    "Which farm animal gives us wool?|sheep",
    "Which farm animal gives us milk?|cow;cows;goat;goats",
    "Which animal is the largest on land?|elephant;African elephant;elephants",
    "Which animal is the tallest?|giraffe;giraffes",
    "Which insect makes honey?|bee;bees;honeybee;honeybees",
    "What is a young dog called?|puppy;pup",
    "What is a young cat called?|kitten",
    "What is a young cow called?|calf",
    "How many legs does a spider have?|8;eight",
    "How many legs does an insect have?|6;six",
    "How many legs does a horse have?|4;four",
    "Which bird cannot fly and lives in Antarctica?|penguin;penguins",
    "What do caterpillars turn into?|butterfly;butterflies;moth;moths",
    "How many days are in a week?|7;seven",
    "How many months are in a year?|12;twelve",
    "How many hours are in a day?|24;twenty-four",
    "How many minutes are in an hour?|60;sixty",
    "How many seconds are in a minute?|60;sixty",
    "How many days are in a leap year?|366",
    "Which day comes after Monday?|Tuesday",
    "Which day comes before Sunday?|Saturday",
    "Which month comes after June?|July",
    "Which month is the first of the year?|January",
    "Which month is the last of the year?|December",
    "Which season comes after winter?|spring",
    "What colour is the sky on a clear day?|blue",
    "What colour is grass?|green",
    "What colour is snow?|white",
    "What colour is a ripe banana?|yellow",
    "What colour do you get by mixing blue and yellow?|green",
    "What colour do you get by mixing red and white?|pink",
    "What colour is blood?|red",
    "What is the chemical formula of water?|H2O;H₂O",
    "What is the chemical symbol of gold?|Au",
    "What is the chemical symbol of oxygen?|O;O2",
    "Which planet do we live on?|Earth",
    "Which planet is the largest in the solar system?|Jupiter",
    "Which planet is known as the red planet?|Mars",
    "Which planet is closest to the sun?|Mercury",
    "Which star is closest to the Earth?|sun",
    "What is frozen water called?|ice",
    "At how many degrees Celsius does water boil?|100;hundred",
    "At how many degrees Celsius does water freeze?|0;zero",
    "Which gas do humans need to breathe?|oxygen",
    "Which ocean lies between Europe and America?|Atlantic",
    "Which ocean is the largest?|Pacific",
    "On which continent is Brazil?|South America",
    "On which continent is Kenya?|Africa",
    "On which continent is India?|Asia",
    "Which country has the shape of a boot?|Italy",
    "Which language is spoken in Brazil?|Portuguese",
    "Which language is spoken in Mexico?|Spanish",
    "Who wrote Romeo and Juliet?|Shakespeare",
    "Who was the first president of the United States?|Washington",
    "Who developed the theory of relativity?|Einstein",
    "How many sides does a triangle have?|3;three",
    "How many sides does a square have?|4;four",
    "How many letters are in the English alphabet?|26;twenty-six",
    "Which letter comes after A in the alphabet?|B",
];

/// Questions with what one of must be said.
pub(crate) fn questions(split: Split) -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    let questions = match split {
        Split::Dev => &DEV[..],
        Split::Final => &FINAL,
    };
    questions.iter().map(|line| {
        let (question, accepted) = line.split_once('|').unwrap_or((line, ""));
        (question, accepted.split(';').collect())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::answering::Expected;

    #[test]
    fn questions_are_there_once_and_do_not_give_their_answers_away() {
        let mut seen = HashSet::new();
        for (question, accepted) in questions(Split::Dev).chain(questions(Split::Final)) {
            assert!(seen.insert(question) && question.ends_with(['?', '.']), "{question}");
            assert!(accepted.iter().all(|a| !a.is_empty()), "{question}");
            let expected = Expected::one_of(accepted);
            assert!(!expected.is_met_by(question, question), "{question}");
        }
        assert_eq!(questions(Split::Final).count(), 100);
    }
}
