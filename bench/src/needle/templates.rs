//! What needles are made of. The two splits share no template, name, word or value, so that a choice made on one can be judged
//! on the other.

use std::ops::Range;

/// Which half of the material to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Split {
    /// For choosing.
    Dev,
    /// For judging what was chosen.
    Final,
}

impl Split {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Final => "final",
        }
    }

    pub(crate) fn material(self) -> &'static Material {
        match self {
            Self::Dev => &DEV,
            Self::Final => &FINAL,
        }
    }
}

/// A number under a key, asked with the words of the statement and with others: `{key}`, `{value}`.
#[derive(Debug)]
pub(crate) struct Form {
    pub(crate) statement: &'static str,
    pub(crate) verbatim: &'static str,
    pub(crate) paraphrased: &'static str,
}

/// A sentence about a person, asked in other words that share the name: `{name}`, `{value}`.
#[derive(Debug)]
pub(crate) struct Natural {
    pub(crate) statement: &'static str,
    pub(crate) question: &'static str,
    /// What is said, and after `|` the words of it that an answer must have.
    pub(crate) values: &'static [&'static str],
}

/// A statement with a question about several of its kind: `{key}`, `{value}`, and in questions about two keys `{a}`, `{b}`.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) statement: &'static str,
    pub(crate) question: &'static str,
}

/// Chains of assignments: `{name}`, `{value}`, `{other}`.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) value: &'static str,
    pub(crate) copy: &'static str,
    pub(crate) ask_value: &'static str,
    pub(crate) ask_names: &'static str,
}

/// A dated statement that a later one replaces: `{date}`, `{key}`, `{value}`.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) statement: &'static str,
    pub(crate) question: &'static str,
    /// Empty: numbers.
    pub(crate) values: &'static [&'static str],
}

/// A day, as a sentence says it and as metadata of a document does.
#[derive(Debug)]
pub(crate) struct Date {
    pub(crate) said: &'static str,
    pub(crate) iso: &'static str,
}

/// Everything that the needles of a split are made of.
#[derive(Debug)]
pub(crate) struct Material {
    pub(crate) forms: &'static [Form],
    pub(crate) naturals: &'static [Natural],
    pub(crate) several_values: &'static [Group],
    pub(crate) two_keys: &'static [Group],
    pub(crate) chains: &'static [Chain],
    pub(crate) updates: &'static [Update],
    /// Both parts of a key.
    pub(crate) key_words: [&'static [&'static str]; 2],
    /// Both parts of a name.
    pub(crate) titles: &'static [&'static str],
    pub(crate) surnames: &'static [&'static str],
    /// Consonants of the names of variables.
    pub(crate) consonants: &'static [u8],
    /// Five digits.
    pub(crate) numbers: Range<u32>,
    /// The earlier and the later.
    pub(crate) dates: [Date; 2],
}

static DEV: Material = Material {
    forms: &[
        Form {
            statement: "The special magic number for {key} is: {value}.",
            verbatim: "What is the special magic number for {key}?",
            paraphrased: "Which secret figure goes with {key}?",
        },
        Form {
            statement: "The access code of the {key} vault was set to {value}.",
            verbatim: "What was the access code of the {key} vault set to?",
            paraphrased: "Which digits open the {key} strongroom?",
        },
        Form {
            statement: "Locker {key} is registered under the number {value}.",
            verbatim: "Under which number is locker {key} registered?",
            paraphrased: "What figure do the records give for the cabinet {key}?",
        },
        Form {
            statement: "The catalogue entry for the {key} manuscript is {value}.",
            verbatim: "What is the catalogue entry for the {key} manuscript?",
            paraphrased: "Which index digits must a reader quote to see the {key} papers?",
        },
        Form {
            statement: "The beacon {key} transmits on channel {value}.",
            verbatim: "On which channel does the beacon {key} transmit?",
            paraphrased: "To what frequency must one tune to hear {key}?",
        },
    ],
    naturals: &[
        Natural {
            statement: "{name} keeps the brass key {value}.",
            question: "Where can the brass key of {name} be found?",
            values: &[
                "under the third step of the mill|third step",
                "inside a hollow loaf of rye bread|loaf",
                "behind the portrait of a one-eyed cat|portrait",
                "beneath the anvil in the yard|anvil",
                "in a jar of pickled walnuts|walnuts",
                "above the lintel of the dovecote|dovecote",
                "inside the cracked bell of the chapel|bell",
                "between the strings of an old harp|harp",
            ],
        },
        Natural {
            statement: "{name} paid the ferryman with {value}.",
            question: "What did {name} give the boatman for the crossing?",
            values: &[
                "a silver thimble|thimble",
                "a basket of quinces|quinces",
                "a torn almanac|almanac",
                "a pair of copper spurs|spurs",
                "a cake of beeswax|beeswax",
                "a caged linnet|linnet",
                "a glass eye|glass eye",
                "a coil of tarred rope|rope",
            ],
        },
        Natural {
            statement: "When the fever came, {name} was cured by {value}.",
            question: "What made {name} healthy again?",
            values: &[
                "a broth of nettles|nettles",
                "the smoke of juniper|juniper",
                "a poultice of mustard|mustard",
                "the milk of a goat|milk",
                "a tea of elderflower|elderflower",
                "honey from the heath|honey",
                "three weeks of sea bathing|sea bathing",
                "a syrup of figs|figs",
            ],
        },
        Natural {
            statement: "{name} called the lame hound {value}.",
            question: "What name did the dog of {name} have?",
            values: &[
                "Tumblewick",
                "Grizzlepaw",
                "Oddment",
                "Barnaclet",
                "Snuffbox",
                "Cinderlog",
                "Wattlejack",
                "Pepperfoot",
            ],
        },
        Natural {
            statement: "At the fair {name} won first prize for {value}.",
            question: "What was {name} honoured for at the market festival?",
            values: &[
                "a pumpkin carved like a ship|pumpkin",
                "a cheese veined with saffron|cheese",
                "a quilt of nine hundred patches|quilt",
                "a talking magpie|magpie",
                "a cider of windfall pears|cider",
                "a saddle of braided straw|saddle",
                "a cabbage as wide as a cartwheel|cabbage",
                "a song without any words|song",
            ],
        },
        Natural {
            statement: "It was in {value} that {name} learned to mend clocks.",
            question: "Where was {name} taught the repair of clocks?",
            values: &[
                "Vellmoor",
                "Quarrendale",
                "Ostwick",
                "Pellingsea",
                "Drumharrow",
                "Ivelcombe",
                "Tarnholt",
                "Skerrybridge",
            ],
        },
    ],
    several_values: &[
        Group {
            statement: "One of the tally figures of {key} is {value}.",
            question: "What are all the tally figures of {key}?",
        },
        Group {
            statement: "A docking slip granted to the barge {key} is {value}.",
            question: "Which docking slips were granted to the barge {key}?",
        },
    ],
    two_keys: &[
        Group {
            statement: "The badge digits for {key} are {value}.",
            question: "What are the badge digits for {a} and for {b}?",
        },
        Group {
            statement: "The kiln marked {key} was fired under permit {value}.",
            question: "Under which permits were the kilns marked {a} and {b} fired?",
        },
    ],
    chains: &[Chain {
        value: "VAR {name} = {value}.",
        copy: "VAR {name} = VAR {other}.",
        ask_value: "What is the value of VAR {name}?",
        ask_names: "Which variables have the value {value}?",
    }],
    updates: &[
        Update {
            statement: "Entry of {date}: the {key} workshop is at {value}.",
            question: "Where is the {key} workshop, by the latest entry?",
            values: &[
                "Tanner Row",
                "Candle Lane",
                "Osier Wharf",
                "Pewter Yard",
                "Saltgate",
                "Mallow Hill",
                "Fiddler Court",
                "Harrow Steps",
                "Plover Street",
                "Bellows Alley",
            ],
        },
        Update {
            statement: "Entry of {date}: the toll account of {key} stands at {value}.",
            question: "At what does the toll account of {key} stand, by the latest entry?",
            values: &[],
        },
    ],
    key_words: [
        &[
            "amber", "brisk", "copper", "dappled", "eager", "frosty", "gentle", "hollow", "ivory", "jolly", "keen",
            "lunar", "mossy", "nimble", "olive", "placid", "quaint", "russet", "solemn", "tawny", "umber", "velvet",
            "wistful", "zesty",
        ],
        &[
            "falcon", "anchor", "bramble", "cinder", "dolphin", "ember", "feather", "garnet", "heron", "inkwell",
            "jackdaw", "kettle", "lantern", "marble", "nutmeg", "otter", "pebble", "quiver", "rudder", "sparrow",
            "thistle", "urchin", "walnut", "yarrow",
        ],
    ],
    titles: &["Captain", "Widow", "Doctor", "Brother", "Magistrate", "Miller"],
    surnames: &[
        "Odrell",
        "Vantriss",
        "Hobmarsh",
        "Quillby",
        "Serrakin",
        "Tolvane",
        "Brackwin",
        "Ellistrom",
        "Fenwarrow",
        "Garridge",
        "Jessamere",
        "Kilvarrow",
        "Lommarick",
        "Mundervale",
        "Nettleford",
        "Orlimond",
        "Pendrossel",
        "Rathmoor",
        "Sallowby",
        "Thackerson",
        "Umbervale",
        "Wexcombe",
        "Yarradine",
        "Zellwyn",
    ],
    consonants: b"BDFGK",
    numbers: 10_000..55_000,
    dates: [Date { said: "12 March 1871", iso: "1871-03-12" }, Date { said: "30 September 1874", iso: "1874-09-30" }],
};

static FINAL: Material = Material {
    forms: &[
        Form {
            statement: "The hidden token assigned to {key} reads {value}.",
            verbatim: "What does the hidden token assigned to {key} read?",
            paraphrased: "Which concealed digits were handed to {key}?",
        },
        Form {
            statement: "Parcel {key} travels with the tracking mark {value}.",
            verbatim: "With which tracking mark does parcel {key} travel?",
            paraphrased: "By what digits can the shipment {key} be followed on its way?",
        },
        Form {
            statement: "The gauge at {key} station stopped at {value}.",
            verbatim: "At what did the gauge at {key} station stop?",
            paraphrased: "What reading was last seen on the dial in {key}?",
        },
        Form {
            statement: "Membership card {key} bears the serial {value}.",
            verbatim: "Which serial does membership card {key} bear?",
            paraphrased: "What is printed as the running figure on the pass of {key}?",
        },
        Form {
            statement: "The survey lists the {key} boundary stone as {value}.",
            verbatim: "As what does the survey list the {key} boundary stone?",
            paraphrased: "Which figure identifies the {key} landmark on the map?",
        },
    ],
    naturals: &[
        Natural {
            statement: "{name} hid the letter {value}.",
            question: "In what spot had {name} concealed the letter?",
            values: &[
                "beneath the beehive by the wall|beehive",
                "in the lining of a fur hat|hat",
                "inside a stuffed pike|pike",
                "under the millstone|millstone",
                "behind a loose brick of the oven|brick",
                "among the candles of the crypt|candles",
                "within the case of a cello|cello",
                "at the bottom of the flour bin|flour",
            ],
        },
        Natural {
            statement: "For the wedding feast {name} brought {value}.",
            question: "What did {name} contribute to the meal when the couple married?",
            values: &[
                "a barrel of smoked eels|eels",
                "a tower of almond biscuits|almond",
                "a roasted swan|swan",
                "a wheel of buttered oatcakes|oatcakes",
                "a tureen of chestnut soup|chestnut",
                "a pie of larks and leeks|pie",
                "a keg of plum brandy|brandy",
                "a bowl of candied ginger|ginger",
            ],
        },
        Natural {
            statement: "{name} lost a wager over {value}.",
            question: "What was the bet about that {name} did not win?",
            values: &[
                "the weight of an ox|ox",
                "the depth of the quarry pond|pond",
                "the age of a tortoise|tortoise",
                "the height of the steeple|steeple",
                "the colour of a comet|comet",
                "the speed of a snail|snail",
                "the number of seeds in a melon|melon",
                "the owner of a stray mule|mule",
            ],
        },
        Natural {
            statement: "The grey mare of {name} answers only to {value}.",
            question: "What is the horse of {name} called?",
            values: &[
                "Larkspindle",
                "Mistletop",
                "Dunderbell",
                "Hazelwhip",
                "Foxgallop",
                "Rimefrost",
                "Tanglemane",
                "Stormpenny",
            ],
        },
        Natural {
            statement: "{name} fears nothing but {value}.",
            question: "What is it that frightens {name}?",
            values: &[
                "the croaking of toads|toads",
                "masks made of paper|masks",
                "the sound of bagpipes|bagpipes",
                "empty cradles|cradles",
                "white peacocks|peacocks",
                "the smell of lavender|lavender",
                "spiral staircases|staircases",
                "unlit lighthouses|lighthouses",
            ],
        },
        Natural {
            statement: "Every winter {name} travels to {value} by sledge.",
            question: "Which place does {name} visit when it snows?",
            values: &[
                "Brennagh",
                "Ulvestad",
                "Corrowmere",
                "Lindisvale",
                "Haverthwick",
                "Zannmouth",
                "Eskerlow",
                "Marrowfell",
            ],
        },
    ],
    several_values: &[
        Group {
            statement: "Among the lot numbers belonging to {key} stands {value}.",
            question: "Which lot numbers belong to {key}?",
        },
        Group {
            statement: "A wax stamp issued to the {key} guild was {value}.",
            question: "Which wax stamps were issued to the {key} guild?",
        },
    ],
    two_keys: &[
        Group {
            statement: "The roll number held by {key} is {value}.",
            question: "Which roll numbers are held by {a} and by {b}?",
        },
        Group {
            statement: "Warehouse {key} answers to the docket {value}.",
            question: "To which dockets do the warehouses {a} and {b} answer?",
        },
    ],
    chains: &[Chain {
        value: "Set register {name} to {value}.",
        copy: "Copy register {other} into register {name}.",
        ask_value: "Which value does register {name} contain?",
        ask_names: "Which registers contain {value}?",
    }],
    updates: &[
        Update {
            statement: "On {date} it was written that {key} hall is led by {value}.",
            question: "Who leads {key} hall according to the most recent record?",
            values: &[
                "Ysolde Marrant",
                "Piers Longacre",
                "Tamsin Oakeshott",
                "Gideon Farrow",
                "Lettice Ambrose",
                "Corin Blackwater",
                "Maud Silverlock",
                "Ralf Hathersage",
                "Edony Crake",
                "Osbert Wyndham",
            ],
        },
        Update {
            statement: "On {date} the keeper noted that the stock of {key} seed was {value}.",
            question: "What was the stock of {key} seed when it was last noted?",
            values: &[],
        },
    ],
    key_words: [
        &[
            "azure", "bashful", "crimson", "drowsy", "earnest", "fabled", "gilded", "humble", "indigo", "jagged",
            "kindred", "lofty", "mellow", "noble", "opaque", "pallid", "quiet", "rugged", "silken", "tender", "unruly",
            "vivid", "woven", "yonder",
        ],
        &[
            "badger",
            "acorn",
            "beacon",
            "cobalt",
            "dragonfly",
            "easel",
            "fiddle",
            "glacier",
            "hammock",
            "island",
            "jasmine",
            "kestrel",
            "locket",
            "meadow",
            "needle",
            "orchard",
            "parasol",
            "quarry",
            "ribbon",
            "saffron",
            "tundra",
            "umbrella",
            "willow",
            "zephyr",
        ],
    ],
    titles: &["Sergeant", "Lady", "Professor", "Sister", "Alderman", "Cooper"],
    surnames: &[
        "Arrendal",
        "Birchmont",
        "Caldervey",
        "Dunmarrow",
        "Estervane",
        "Farthingale",
        "Glenholm",
        "Hallowick",
        "Ingersby",
        "Jorrimund",
        "Kettlesworth",
        "Lanthier",
        "Morvenna",
        "Northcliffe",
        "Osterley",
        "Penhallow",
        "Quennell",
        "Rostrevor",
        "Stavanger",
        "Trelawn",
        "Ulverston",
        "Varrington",
        "Wolvercote",
        "Yelverton",
    ],
    consonants: b"LMNPR",
    numbers: 55_000..100_000,
    dates: [Date { said: "4 May 1892", iso: "1892-05-04" }, Date { said: "19 November 1895", iso: "1895-11-19" }],
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    impl Material {
        fn statements(&self) -> Vec<&'static str> {
            let mut all: Vec<&str> = self.forms.iter().flat_map(|f| [f.statement, f.verbatim, f.paraphrased]).collect();
            all.extend(self.naturals.iter().flat_map(|n| [n.statement, n.question]));
            all.extend(self.several_values.iter().chain(self.two_keys).flat_map(|g| [g.statement, g.question]));
            all.extend(self.chains.iter().flat_map(|c| [c.value, c.copy, c.ask_value, c.ask_names]));
            all.extend(self.updates.iter().flat_map(|u| [u.statement, u.question]));
            all
        }

        fn words(&self) -> Vec<&'static str> {
            let mut all: Vec<&str> = self.naturals.iter().flat_map(|n| n.values).copied().collect();
            all.extend(self.updates.iter().flat_map(|u| u.values));
            all.extend(self.key_words.iter().copied().flatten());
            all.extend(self.titles.iter().chain(self.surnames));
            all.extend(self.dates.iter().flat_map(|d| [d.said, d.iso]));
            all
        }
    }

    #[test]
    fn the_splits_share_nothing() {
        for pick in [Material::statements, Material::words] {
            let (dev, last) = (pick(&DEV), pick(&FINAL));
            let set: HashSet<&str> = dev.iter().copied().collect();
            assert_eq!(set.len(), dev.len(), "each is there once");
            assert!(last.iter().all(|text| !set.contains(text)));
        }
        assert!(DEV.consonants.iter().all(|c| !FINAL.consonants.contains(c)));
        assert!(DEV.numbers.end <= FINAL.numbers.start);
        // Cores of values as well: an answer cannot be right by the other split's words.
        let cores = |m: &Material| -> HashSet<&str> {
            m.naturals.iter().flat_map(|n| n.values).map(|v| v.rsplit('|').next().unwrap_or(v)).collect()
        };
        assert!(cores(&DEV).is_disjoint(&cores(&FINAL)));
    }

    #[test]
    fn templates_name_what_they_need() {
        for material in [&DEV, &FINAL] {
            assert!(material.forms.iter().all(|f| f.statement.contains("{key}") && f.statement.contains("{value}")));
            assert!(material.naturals.iter().all(|n| n.statement.contains("{name}") && n.question.contains("{name}")));
            assert!(material.two_keys.iter().all(|g| g.question.contains("{a}") && g.question.contains("{b}")));
            assert!(material.updates.iter().all(|u| u.statement.contains("{date}") && u.question.contains("{key}")));
            for value in material.naturals.iter().flat_map(|n| n.values) {
                let (phrase, core) = value.split_once('|').unwrap_or((value, value));
                assert!(phrase.contains(core), "{value}");
            }
        }
    }
}
