//! Facts asked in words of which their statements have none.

use super::templates::Split;

/// A statement with a question that shares no content word with it.
#[derive(Debug)]
pub(crate) struct Unworded {
    pub(crate) statement: &'static str,
    pub(crate) question: &'static str,
    /// Any of these, separated by `;`, is the answer.
    pub(crate) accepted: &'static str,
}

pub(crate) fn unworded(split: Split) -> &'static [Unworded] {
    match split {
        Split::Dev => &DEV,
        Split::Final => &FINAL,
    }
}

static DEV: [Unworded; 30] = [
    Unworded {
        statement: "The cabinetmaker Ilse Brandt inlaid the lid of my desk with a map of the stars.",
        question: "What picture in wood did the craftswoman put on top of the writing table?",
        accepted: "map;stars",
    },
    Unworded {
        statement: "Old Mordecai ploughed with a camel that a bankrupt circus had abandoned on the common.",
        question: "What exotic animal did the farmer use for tilling his land?",
        accepted: "camel",
    },
    Unworded {
        statement: "My little sister Ottilie eats chalk from the blackboard when the governess is not looking.",
        question: "What odd thing does the girl nibble on in secret from her teacher?",
        accepted: "chalk",
    },
    Unworded {
        statement: "The night watchman of Wyke raised the alarm because a stag's antlers had looked to him like the \
            devil.",
        question: "What animal did the guard take for Satan in the darkness?",
        accepted: "stag",
    },
    Unworded {
        statement: "Florian gave up mountaineering after an avalanche buried his tent with all his instruments.",
        question: "What made the climber abandon his pastime?",
        accepted: "avalanche",
    },
    Unworded {
        statement: "The emperor's envoy was kept waiting in the rain because the porter had lost the key.",
        question: "Why did the ambassador have to stand outside in the wet?",
        accepted: "key",
    },
    Unworded {
        statement: "Marigold ointment is the only thing that soothes the burns of the foundry men.",
        question: "Which plant gives relief to the workers who get scorched at the metal furnace?",
        accepted: "marigold",
    },
    Unworded {
        statement: "A banknote for a hundred florins turned up at the spring cleaning under the postmistress's \
            doormat.",
        question: "Where was that valuable piece of paper money discovered?",
        accepted: "doormat",
    },
    Unworded {
        statement: "The baron had a wax copy of himself seated at the head of the table whenever he dined out.",
        question: "Of what material was the dummy that stood in for the absent nobleman at meals?",
        accepted: "wax",
    },
    Unworded {
        statement: "Clementina can whistle a blackbird out of a hedge but cannot carry a hymn in church.",
        question: "What sort of creature can the girl lure, though she is no good at sacred song?",
        accepted: "blackbird",
    },
    Unworded {
        statement: "The shepherds of that valley walk upon stilts because the ground is never dry.",
        question: "On what do the men who tend the flocks get about in the boggy country?",
        accepted: "stilts",
    },
    Unworded {
        statement: "He had staked his reputation on the tunnel, and the two borings missed each other by six yards.",
        question: "How far apart were the ends of the underground passage when the diggers should have met?",
        accepted: "six yards;six",
    },
    Unworded {
        statement: "Rosalind's nurse used to terrify her with tales of a chimney sweep who boiled naughty girls.",
        question: "What was the trade of the villain in the stories told to scare the child?",
        accepted: "chimney sweep;sweep",
    },
    Unworded {
        statement: "The hospital at Zell was once a silk mill, and the looms still stand in the attic.",
        question: "What was formerly produced in the building where the sick are nursed now?",
        accepted: "silk",
    },
    Unworded {
        statement: "Hubert wagered his moustache upon the election and was clean shaven by the Monday.",
        question: "What did the man lose by betting on the outcome of the vote?",
        accepted: "moustache",
    },
    Unworded {
        statement: "The late dowager's recipe for gingerbread was stolen by a confectioner, who grew famous on it.",
        question: "Which baked delicacy brought renown to a dishonest tradesman?",
        accepted: "gingerbread",
    },
    Unworded {
        statement: "There is a cannonball lodged in the wall of our dining room, and guests are shown it before the \
            soup.",
        question: "What reminder of an old bombardment do visitors to the house get to look at?",
        accepted: "cannonball",
    },
    Unworded {
        statement: "The deserter lived through that winter in a hollow oak and was fed by the charcoal burner's girl.",
        question: "Where did the runaway soldier shelter during the cold season?",
        accepted: "hollow oak;oak",
    },
    Unworded {
        statement: "Quentin tattooed an anchor on his wrist with ink and a darning needle, and it festered.",
        question: "What design did the lad prick into his skin?",
        accepted: "anchor",
    },
    Unworded {
        statement: "The customs officer weighed the marble statue twice and found it stuffed with tobacco.",
        question: "Which dutiable goods were concealed inside the sculpture?",
        accepted: "tobacco",
    },
    Unworded {
        statement: "Our hens have laid nothing since the regimental band began to practise in the next field.",
        question: "What noise made the poultry unproductive?",
        accepted: "regimental band;band",
    },
    Unworded {
        statement: "The cartographer drew a lake where there was none, to please the governor's wife.",
        question: "What imaginary feature did the maker of charts add to flatter a lady?",
        accepted: "lake",
    },
    Unworded {
        statement: "Twice a year Count Sandor has his library smoked with juniper to kill the moths.",
        question: "Which shrub is burned to rid the nobleman's books of insects?",
        accepted: "juniper",
    },
    Unworded {
        statement: "The poor girl was so cold that she warmed her hands in the mane of the cab horse.",
        question: "Where did the freezing maiden find heat for her fingers?",
        accepted: "mane",
    },
    Unworded {
        statement: "Anselm's first invention was a machine for peeling potatoes, which took off half the kitchen door.",
        question: "For which household chore did the budding mechanic design his earliest device?",
        accepted: "peeling potatoes;peeling;potatoes",
    },
    Unworded {
        statement: "Eulalia had to be painted with her mouth behind a veil, for she would not leave off yawning.",
        question: "What habit of the sitter's forced the artist to conceal her lips?",
        accepted: "yawning;yawn",
    },
    Unworded {
        statement: "Thirty sacks of mail were burned at the depot because the clerk feared the plague.",
        question: "What contagion was dreaded by the official who set fire to the post?",
        accepted: "plague",
    },
    Unworded {
        statement: "Isidor and his rival fought their duel with snowballs, both seconds having been drunk.",
        question: "What weapons did the two adversaries use in the affair of honour?",
        accepted: "snowballs;snowball",
    },
    Unworded {
        statement: "Madame Verrier weighs her poodle every morning and reduces her own breakfast accordingly.",
        question: "Which meal does the lady make smaller when her pet gets too heavy?",
        accepted: "breakfast",
    },
    Unworded {
        statement: "They launched the new schooner with a bottle of vinegar, because the owner was a temperance man.",
        question: "What liquid did the teetotal proprietor use at the naming of his vessel?",
        accepted: "vinegar",
    },
];

static FINAL: [Unworded; 100] = [
    Unworded {
        statement: "My aunt Philippa would never sleep in a room where a clock was ticking.",
        question: "What noisy household object did a certain relative refuse to have near her bed at night?",
        accepted: "clock",
    },
    Unworded {
        statement: "The curate broke his ankle in falling from a cherry tree on the morning of his own wedding.",
        question: "Which part of his body did the young clergyman injure just hours ahead of getting married?",
        accepted: "ankle",
    },
    Unworded {
        statement: "Since the fever she has been quite deaf in her left ear, though she hides it by laughing.",
        question: "On which side did the illness rob the woman of her hearing?",
        accepted: "left ear;left",
    },
    Unworded {
        statement: "We sold the piano to a publican at Wexcombe, and Mamma wept when the cart drove away with it.",
        question: "Which musical instrument did the family part with to a tavern keeper?",
        accepted: "piano",
    },
    Unworded {
        statement: "Old Tobias Wren mended shoes in winter and kept bees all the summer through.",
        question: "What was the cobbler's other occupation, in the warm months?",
        accepted: "bees;beekeeping;beekeeper",
    },
    Unworded {
        statement: "Our cook has taken a vow to touch no butter until her brother comes home from the war.",
        question: "What is the kitchen servant denying herself while her sibling is away fighting?",
        accepted: "butter",
    },
    Unworded {
        statement: "The bridge at Harrow Fold was carried off by the flood, and the doctor had to swim his mare \
            across.",
        question: "How did the physician on horseback reach the opposite bank of the river?",
        accepted: "swim;swam;swimming",
    },
    Unworded {
        statement: "Grandmother kept her savings in a teapot with a broken spout behind the flour bin.",
        question: "In what vessel did the old lady hide her money?",
        accepted: "teapot",
    },
    Unworded {
        statement: "A magpie stole the attorney's spectacles from the windowsill and was never caught.",
        question: "What did the bird take from the lawyer?",
        accepted: "spectacles;glasses",
    },
    Unworded {
        statement: "Every Thursday the baker's widow walks four miles to lay violets on a stranger's grave.",
        question: "What flowers does the bereaved woman bring to the burial place of somebody she did not know?",
        accepted: "violets;violet",
    },
    Unworded {
        statement: "Young Ferris was expelled from his college for shooting at the weathercock on the chapel.",
        question: "What target did a student pick with his gun, so that the university sent him away?",
        accepted: "weathercock",
    },
    Unworded {
        statement: "The captain's wife could not abide the smell of oranges, which always made her faint.",
        question: "Which fruit had an odour that the officer's spouse found unbearable?",
        accepted: "oranges;orange",
    },
    Unworded {
        statement: "It snowed in the second week of June that year, and the lambs perished in the upper pastures.",
        question: "In which month did unexpected wintry weather kill the young sheep?",
        accepted: "june",
    },
    Unworded {
        statement: "Mr. Penhallow got the whole orchard from his cousin in exchange for one racehorse.",
        question: "What did the gentleman give his relative to acquire the land with the fruit trees?",
        accepted: "racehorse",
    },
    Unworded {
        statement: "The twins quarrelled over a silver thimble and did not speak to each other for eleven years.",
        question: "What object was the cause of the long silence between the siblings?",
        accepted: "thimble",
    },
    Unworded {
        statement: "The squire's youngest daughter has run off with a tightrope walker from the Whitsun fair.",
        question: "What was the profession of the man with whom the country gentleman's girl eloped?",
        accepted: "tightrope walker;tightrope",
    },
    Unworded {
        statement: "He lost the farm at cards in one evening to a man whose name he never learned.",
        question: "What property did the gambler forfeit to an unknown opponent?",
        accepted: "farm",
    },
    Unworded {
        statement: "The parson's parrot swore so dreadfully that it had to be covered with a tablecloth whenever the \
            bishop called.",
        question: "What was thrown over the clergyman's foul-mouthed bird during visits of his superior?",
        accepted: "tablecloth",
    },
    Unworded {
        statement: "For the toothache Nurse Dobbin put a clove in the hollow and told me to hold my tongue.",
        question: "Which spice was used as a remedy against the pain in a molar?",
        accepted: "clove",
    },
    Unworded {
        statement: "The boatswain had been shipwrecked three times, and he owed his life each time to the same wooden \
            chest.",
        question: "What object kept the seaman from drowning on repeated occasions?",
        accepted: "wooden chest;chest",
    },
    Unworded {
        statement: "Her bonnet caught fire from the altar candle, and the sexton put it out with holy water.",
        question: "With what liquid were the flames on the lady's hat extinguished?",
        accepted: "holy water",
    },
    Unworded {
        statement: "Uncle Jasper willed his entire fortune to the lifeboat, and not a penny to his nephews.",
        question: "To what did the rich old man bequeath his wealth instead of to his kin?",
        accepted: "lifeboat",
    },
    Unworded {
        statement: "Tea was so dear in those days that we dried blackberry leaves and called it by the same name.",
        question: "From which plant was the substitute for the costly drink made?",
        accepted: "blackberry",
    },
    Unworded {
        statement: "The schoolmaster had a glass eye, and took it out to frighten the boys who would not learn.",
        question: "What artificial part did the teacher remove in order to scare lazy pupils?",
        accepted: "glass eye;eye",
    },
    Unworded {
        statement: "Please tell Hester that the goat has eaten the minutes of the vestry meeting.",
        question: "What animal devoured the record of the parish council's session?",
        accepted: "goat",
    },
    Unworded {
        statement: "Leopold learned to play the flute in prison from a forger who was hanged at Easter.",
        question: "Which musical instrument did an inmate study under a fellow convict?",
        accepted: "flute",
    },
    Unworded {
        statement: "At forty she dyed her grey curls with walnut juice and told everyone it was the sea air.",
        question: "With what did the middle-aged woman secretly darken her locks?",
        accepted: "walnut juice;walnut",
    },
    Unworded {
        statement: "The mail coach was held up for an hour by a flock of geese asleep on the turnpike.",
        question: "Which birds, dozing on the highway, delayed the vehicle that brought the post?",
        accepted: "geese;goose",
    },
    Unworded {
        statement: "Cousin Adelaide married her dancing master against the wishes of both guardians.",
        question: "Whom did the girl take as her husband although those in charge of her were opposed?",
        accepted: "dancing master",
    },
    Unworded {
        statement: "The well at Sallow End has been bricked up since the tinker's child fell down it.",
        question: "Whose little one tumbled into the village water supply, so that it was sealed?",
        accepted: "tinker",
    },
    Unworded {
        statement: "My brother's ship brought back a tortoise, which now lives under our kitchen dresser and eats \
            lettuce.",
        question: "What sort of reptile does the family keep beneath a piece of furniture?",
        accepted: "tortoise",
    },
    Unworded {
        statement: "The miller is so stout that he has not seen his own feet since the coronation.",
        question: "What can the fat man who grinds corn no longer get a glimpse of?",
        accepted: "feet",
    },
    Unworded {
        statement: "Wilhelmina wore mourning for a lover who, as it turned out, had only gone to Brazil.",
        question: "To which country had the supposedly dead sweetheart in fact travelled?",
        accepted: "brazil",
    },
    Unworded {
        statement: "The cellar floods whenever the moon is full, and then Papa catches eels in it with a basket.",
        question: "What does father fish for in the basement of the house?",
        accepted: "eels;eel",
    },
    Unworded {
        statement: "Sergeant Mulrooney carried a musket ball in his thigh for twenty years and could foretell rain by \
            it.",
        question: "How long did the old soldier live with a bullet in his flesh?",
        accepted: "twenty years;twenty",
    },
    Unworded {
        statement: "The chambermaid pawned her mistress's opal brooch to buy her sweetheart out of the army.",
        question: "What jewel did the servant girl give up for ready money so that her beau could stop being a \
            soldier?",
        accepted: "opal brooch;brooch",
    },
    Unworded {
        statement: "Dr. Fenwick charges the poor nothing, but asks each of them for one egg at Candlemas.",
        question: "What modest payment does the physician request from patients without means?",
        accepted: "egg;eggs",
    },
    Unworded {
        statement: "The stationmaster grows sweet peas along the platform and names each after a queen.",
        question: "What blooms are cultivated by the railway official at the stop where he is in charge?",
        accepted: "sweet peas;sweet pea",
    },
    Unworded {
        statement: "During the great frost a bullock was roasted upon the river, and the ice held.",
        question: "What animal was cooked on the solid surface of the stream in that exceptionally cold winter?",
        accepted: "bullock",
    },
    Unworded {
        statement: "I am informed that the Dean plays at skittles with his gardener every Sunday after evensong.",
        question: "Which game does the church dignitary enjoy together with an outdoor servant?",
        accepted: "skittles",
    },
    Unworded {
        statement: "Bridget has a birthmark shaped like a horseshoe upon the nape of her neck.",
        question: "What does the natural blemish on the woman's skin resemble?",
        accepted: "horseshoe",
    },
    Unworded {
        statement: "The tailor sewed a lock of his dead wife's hair into every waistcoat he made.",
        question: "What keepsake of his late spouse did the craftsman conceal in the garments?",
        accepted: "hair",
    },
    Unworded {
        statement: "Nobody will rent the yellow house because a hangman used to live there.",
        question: "Why does the brightly coloured dwelling find no tenant?",
        accepted: "hangman",
    },
    Unworded {
        statement: "Percival failed in wool, failed in sugar, and at last grew rich by selling umbrellas.",
        question: "What merchandise finally brought the unlucky trader success?",
        accepted: "umbrellas;umbrella",
    },
    Unworded {
        statement: "The mule refused to pass the gibbet, so the pedlar blindfolded it with his neckerchief.",
        question: "What did the travelling hawker tie over the eyes of the stubborn beast?",
        accepted: "neckerchief",
    },
    Unworded {
        statement: "Lavinia confessed on her deathbed that she had burned her sister's letters to the lieutenant.",
        question: "What did the woman admit in her final hours to having destroyed in the fire?",
        accepted: "letters",
    },
    Unworded {
        statement: "We supped that night upon hedgehog baked in clay, the gipsies sharing it with us very civilly.",
        question: "What did the wandering people cook in mud and offer their guests to eat?",
        accepted: "hedgehog",
    },
    Unworded {
        statement: "The organ bellows at St. Osyth's were gnawed through by rats in the middle of Advent.",
        question: "What vermin damaged the church instrument shortly before Christmas?",
        accepted: "rats",
    },
    Unworded {
        statement: "Ambrose walks in his sleep and was once found at daybreak sitting on the roof of the brewhouse.",
        question: "Where did they discover the somnambulist early in the morning?",
        accepted: "roof",
    },
    Unworded {
        statement: "The painter could not pay his rent, so he decorated the ceiling with clouds and cherubs instead.",
        question: "Which surface did the artist adorn for his lodging because he had no cash?",
        accepted: "ceiling",
    },
    Unworded {
        statement: "Her ladyship travels with her own sheets, for she once caught ringworm at an inn.",
        question: "What does the noblewoman bring along on journeys for fear of infection?",
        accepted: "sheets",
    },
    Unworded {
        statement: "Gregory swallowed a plum stone at school and believed for a month that a tree would grow in him.",
        question: "What did the pupil accidentally ingest, and imagine it might sprout inside his belly?",
        accepted: "plum stone;plum",
    },
    Unworded {
        statement: "The lighthouse keeper taught his seven children to read from a single volume of sermons.",
        question: "How many sons and daughters did the man at the beacon instruct out of a religious book?",
        accepted: "seven",
    },
    Unworded {
        statement: "The Colonel's wooden leg was hollow, and he kept his brandy in it.",
        question: "Where did the maimed officer store his liquor?",
        accepted: "wooden leg;leg",
    },
    Unworded {
        statement: "In the terrible summer of the drought, water was sold at the church door by the pint.",
        question: "At what place could thirsty people buy a drink during the rainless months?",
        accepted: "church door",
    },
    Unworded {
        statement: "The judge sucks peppermints throughout a trial and offers them to the jury when the evidence is \
            long.",
        question: "What sweets does the magistrate consume in court?",
        accepted: "peppermints;peppermint",
    },
    Unworded {
        statement: "Little Dorcas was born in a hayloft while the house was burning.",
        question: "In what place did the girl come into the world during a blaze?",
        accepted: "hayloft",
    },
    Unworded {
        statement: "The smuggler's donkey knew the path so well that it went to the cave and back alone at midnight.",
        question: "What destination could the contraband runner's beast find by itself in the dark?",
        accepted: "cave",
    },
    Unworded {
        statement: "He proposed to her in the middle of a lecture on volcanoes, and she dropped her fan.",
        question: "What was the subject of the talk during which the suitor asked for the lady's hand?",
        accepted: "volcanoes;volcano",
    },
    Unworded {
        statement: "Mrs. Tansley takes a raw onion to bed with her against the rheumatism.",
        question: "Which vegetable does the woman believe will keep her joints free of pain at night?",
        accepted: "onion",
    },
    Unworded {
        statement: "The barber of Crick Lane shaved a corpse by mistake and sent in his bill to the family.",
        question: "On what kind of customer did the man with the razor unwittingly work?",
        accepted: "corpse",
    },
    Unworded {
        statement: "We were becalmed nine days, and the mate amused us by training a cockroach to draw a thread.",
        question: "What insect was taught a trick aboard while there was no wind?",
        accepted: "cockroach",
    },
    Unworded {
        statement: "Theodora refused the count because he had yellow teeth and whistled through them.",
        question: "Why did the young lady turn down the nobleman's offer?",
        accepted: "yellow teeth;teeth",
    },
    Unworded {
        statement: "Our neighbour's monkey got in at the nursery window and wrapped itself in the christening shawl.",
        question: "In what did the ape from next door dress up when it climbed into the children's bedroom?",
        accepted: "shawl",
    },
    Unworded {
        statement: "To settle the boundary they made two ploughboys wrestle for it, and Hobley's lad threw the other \
            into a ditch.",
        question: "By what kind of contest was the dispute about the limit of the estates resolved?",
        accepted: "wrestle;wrestling;wrestled",
    },
    Unworded {
        statement: "The bellringers went on strike for stronger cider, and for two Sundays nobody knew the hour.",
        question: "Which beverage was the reason why the steeple fell silent?",
        accepted: "cider",
    },
    Unworded {
        statement: "My godfather gave me a compass when I was confirmed, saying that Scripture would not help me in a \
            fog.",
        question: "What useful present did the sponsor choose for the young person at a church ceremony?",
        accepted: "compass",
    },
    Unworded {
        statement: "The apothecary's sign is a golden serpent, but the village calls it the worm.",
        question: "What creature is really depicted above the entrance of the chemist's shop?",
        accepted: "serpent;snake",
    },
    Unworded {
        statement: "Since the scandal, Lady Ottoline receives nobody but her confessor and her fishmonger.",
        question: "Which tradesman is still welcome at the disgraced noblewoman's home?",
        accepted: "fishmonger",
    },
    Unworded {
        statement: "The Russian prince paid his gambling debts with a trained bear, which the club did not know how to \
            refuse.",
        question: "What did the foreign aristocrat hand over to the gentlemen's society in place of the cash he owed?",
        accepted: "trained bear;bear",
    },
    Unworded {
        statement: "At the funeral the wind blew the preacher's notes into the grave, and he finished with the Lord's \
            Prayer.",
        question: "What did the gust carry off during the burial?",
        accepted: "notes",
    },
    Unworded {
        statement: "Josiah cured himself of stammering by reciting the multiplication table to his cows.",
        question: "What did the farmer repeat aloud in order to overcome his speech defect?",
        accepted: "multiplication table;multiplication",
    },
    Unworded {
        statement: "Polly dropped the birthday cake into the duck pond, and the footman went in after it in his \
            livery.",
        question: "Which servant waded out to rescue the sweet dish prepared for the celebration?",
        accepted: "footman",
    },
    Unworded {
        statement: "A comet was seen over the abbey that autumn, and the abbess forbade all talk of it.",
        question: "What heavenly body were the nuns told to keep silent about?",
        accepted: "comet",
    },
    Unworded {
        statement: "Ephraim has buried three wives, all of them called Susan, and is now courting a fourth.",
        question: "Which Christian name was shared by every spouse of the widower?",
        accepted: "susan",
    },
    Unworded {
        statement: "The balloon came down in a turnip field, and the labourers stabbed it with pitchforks, thinking it \
            alive.",
        question: "Which tools did the frightened farmhands use to attack the aircraft?",
        accepted: "pitchforks;pitchfork",
    },
    Unworded {
        statement: "Sister Agatha bakes a little poppy seed into the bread when the infirmary is restless.",
        question: "Which ingredient does the nun mix in so that the patients will be calm at night?",
        accepted: "poppy seed;poppy",
    },
    Unworded {
        statement: "My tutor blew his nose so loudly in the Louvre that an attendant asked us to leave.",
        question: "From which museum was the private teacher sent away for being noisy?",
        accepted: "louvre",
    },
    Unworded {
        statement: "The two old admirals have fallen out about a hammock and communicate only by signal flags.",
        question: "By what means do the quarrelling naval veterans exchange messages?",
        accepted: "signal flags;flags",
    },
    Unworded {
        statement: "The grocer's scales were found to be weighted with a lead button, and he was fined five pounds.",
        question: "How much did the cheating shopkeeper have to pay as a penalty?",
        accepted: "five pounds;five",
    },
    Unworded {
        statement: "The widow Crane lets her first floor to a ventriloquist, and the lodgers below hear voices in the \
            coal scuttle.",
        question: "Who is the tenant of the rooms upstairs in the landlady's house?",
        accepted: "ventriloquist",
    },
    Unworded {
        statement: "The Bohemian glassblower had lost his sense of taste and put mustard on everything, even on pears.",
        question: "Which condiment did the craftsman add to all his food?",
        accepted: "mustard",
    },
    Unworded {
        statement: "They named the baby Hannibal because he was carried over the Alps in a soup tureen.",
        question: "In what container did the infant make the journey through the mountains?",
        accepted: "soup tureen;tureen",
    },
    Unworded {
        statement: "Every gate on the estate is painted blue, since the old Marquis thought that the colour kept \
            witches off.",
        question: "What evil beings did the nobleman hope to ward away by choosing the tint of the entrances to his \
            land?",
        accepted: "witches;witch",
    },
    Unworded {
        statement: "Our washerwoman can tell from a man's collar whether he is in love.",
        question: "Which item of clothing betrays a gentleman's feelings to the laundress?",
        accepted: "collar",
    },
    Unworded {
        statement: "The fishermen will not put to sea if they have met a redheaded woman on the way to the quay.",
        question: "What sort of female is thought unlucky by the crews of the boats?",
        accepted: "redheaded;red-headed;redhead;red hair",
    },
    Unworded {
        statement: "Matthias spent his honeymoon in quarantine, playing dominoes with the harbour physician.",
        question: "How did the newly married man pass the days he was shut up in isolation at the port?",
        accepted: "dominoes;domino",
    },
    Unworded {
        statement: "A beam fell in the granary and killed the only honest bailiff we ever had.",
        question: "Who lost his life when timber collapsed in the storehouse for corn?",
        accepted: "bailiff",
    },
    Unworded {
        statement: "The poet composes best in the bath, and his landlady takes down the verses through the wall.",
        question: "Where does the writer of rhymes do his finest work?",
        accepted: "bath",
    },
    Unworded {
        statement: "The telegram said 'Come at once', but the boy had dropped it in the gutter, and it was read on \
            Friday.",
        question: "On what weekday did somebody finally look at the urgent wire?",
        accepted: "friday",
    },
    Unworded {
        statement: "Nothing would persuade the gamekeeper to eat hare, because his mother had been frightened by one.",
        question: "What meat did the man who guards the woods against poachers decline to touch?",
        accepted: "hare",
    },
    Unworded {
        statement: "The ropemaker's apprentice ran away to sea hidden in a barrel of ship's biscuit.",
        question: "Inside what container did the lad conceal himself to get on board and escape from his master?",
        accepted: "barrel",
    },
    Unworded {
        statement: "Keziah says that the new butler counts the candles at night and the spoons in the morning.",
        question: "What does the recently hired head servant check at dawn?",
        accepted: "spoons",
    },
    Unworded {
        statement: "When the mine closed, Gwilym took up knitting, and his stockings won the prize at Cardiff.",
        question: "What handicraft did the collier turn to when he was out of work?",
        accepted: "knitting",
    },
    Unworded {
        statement: "The blind fiddler knows each of us by the sound of our boots upon the stairs.",
        question: "What enables the sightless musician to recognise visitors?",
        accepted: "boots",
    },
    Unworded {
        statement: "Constance was jilted for a widow with a brewery and has drunk nothing but milk ever since.",
        question: "What is the only liquid that the abandoned fiancée will take?",
        accepted: "milk",
    },
    Unworded {
        statement: "The Turk at the bazaar would take no coin for the carpet, only my grandfather's pipe.",
        question: "What did the Oriental merchant demand in return for the rug?",
        accepted: "pipe",
    },
    Unworded {
        statement: "Smallpox had closed the theatre, so the company acted Hamlet in a tannery for the workmen.",
        question: "In what place did the troupe put on its tragedy because of the epidemic?",
        accepted: "tannery",
    },
    Unworded {
        statement: "The heir was known by a scar on his chin, which a swan had given him.",
        question: "What bird was responsible for the mark by which the rightful successor was recognised?",
        accepted: "swan",
    },
    Unworded {
        statement: "Barnaby keeps his own coffin in the parlour, and in the meantime stores apples in it.",
        question: "What does the man use his burial box for until he needs it?",
        accepted: "apples;apple",
    },
];

#[cfg(test)]
mod tests {
    use mnemon_memory_store::WordMatcher;

    use super::*;

    /// Words that a question may share with a statement.
    const FUNCTION_WORDS: &str = "a about after against all although am an and any are as at be because been before being both but by \
        can could did do does down during each every for from had has have having he her herself him himself his how i if in into is it its \
        itself may me my no nor not of off on one's only or our out over she should since so some than that the their them these they this \
        those though through to under until up upon us was we were what when where which while who whom whose why will with would";

    #[test]
    fn statements_and_questions_share_no_content_word() {
        for pair in [Split::Dev, Split::Final].into_iter().flat_map(unworded) {
            for range in WordMatcher::new(pair.question).matches(pair.statement) {
                let word = pair.statement[range].to_lowercase();
                // The `s` of a possessive is a part of its word.
                let may_share = word == "s" || FUNCTION_WORDS.split_whitespace().any(|known| known == word);
                assert!(may_share, "{word}: {}", pair.question);
            }
            let said = pair.statement.to_lowercase();
            assert!(pair.accepted.split(';').any(|answer| said.contains(answer)), "{}", pair.statement);
        }
    }
}
