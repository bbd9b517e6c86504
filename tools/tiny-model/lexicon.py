"""Words that stories are made of: characters, names, objects, places and feelings."""

from __future__ import annotations

# Kinds of character. The boy/girl style kinds fix the pronoun, the others take either.
ANIMALS = (
    "fox cat dog rabbit bear mouse owl frog duck turtle squirrel hedgehog pig goat horse lamb elephant "
    "lion tiger monkey penguin otter beaver badger deer wolf kitten puppy pony hen snail raccoon zebra "
    "giraffe panda koala goose sheep camel"
).split()
FANTASY = "dragon robot giant fairy unicorn wizard elf".split()
WORKERS = "farmer baker sailor pirate gardener painter teacher doctor".split()
MALE_KINDS = "boy prince king knight".split()
FEMALE_KINDS = "girl princess queen witch".split()

MALE_NAMES = (
    "Tom Ben Max Sam Leo Finn Jack Oliver Theo Milo Oscar Hugo Toby Felix Jasper Rufus Otto Charlie Henry "
    "Noah Adam Eli Bruno Barney Pip Dexter Ollie Sunny Rusty Bobo"
).split()
FEMALE_NAMES = (
    "Lily Mia Anna Rosie Ella Daisy Poppy Ruby Clara Luna Molly Emma Nora Ivy Zoe Lucy Hazel Penny Tilly "
    "Maya Sara Grace Bella Fern Olive Willow Coco Pearl Dotty Wendy"
).split()

TRAITS = (
    "brave little kind shy curious clever happy lonely sleepy funny gentle silly quiet cheerful tiny proud "
    "grumpy lazy busy hungry friendly young honest old small playful careful"
).split()

COLOURS = "red blue green yellow purple pink orange white black silver golden brown".split()
LOOKS = "shiny tiny big old new pretty special little".split()
OBJECTS = (
    "kite ball boat hat scarf drum book lantern bell key basket umbrella doll ring spoon button shell "
    "feather whistle flute coat blanket bag box map mirror cup clock crown coin wagon balloon puzzle flag "
    "marble paintbrush watch necklace pillow teapot lamp bucket train rope ribbon violin toy stone flower"
).split()

# (preposition, place)
PLACES = (
    ("in", "the forest"),
    ("by", "the river"),
    ("on", "the hill"),
    ("near", "the lake"),
    ("in", "the garden"),
    ("at", "the beach"),
    ("in", "the village"),
    ("on", "the farm"),
    ("in", "the park"),
    ("in", "the meadow"),
    ("by", "the sea"),
    ("near", "the castle"),
    ("in", "the valley"),
    ("near", "the mountain"),
    ("in", "the city"),
    ("in", "the jungle"),
    ("near", "the bridge"),
    ("by", "the pond"),
    ("on", "the island"),
    ("in", "the woods"),
    ("at", "the market"),
    ("near", "the cave"),
    ("in", "the town"),
    ("by", "the waterfall"),
)

SKILLS = (
    "swim",
    "dance",
    "sing",
    "paint",
    "bake bread",
    "read",
    "juggle",
    "climb trees",
    "play the drum",
    "write letters",
    "whistle",
    "skate",
    "ride a bike",
    "tell jokes",
    "cook soup",
)
FEARS = (
    "the dark",
    "thunder",
    "deep water",
    "loud noises",
    "high places",
    "the wind",
    "big crowds",
    "shadows",
)
STRUCTURES = (
    "tree house",
    "bridge",
    "raft",
    "snowman",
    "sand castle",
    "tower",
    "little cabin",
    "swing",
    "tent",
    "big boat",
)
PLANTS = (
    "pumpkin",
    "sunflower",
    "apple tree",
    "rose",
    "carrot",
    "strawberry plant",
    "tomato plant",
    "pear tree",
)
FOODS = (
    "apple pie",
    "honey cake",
    "warm soup",
    "fresh bread",
    "berry jam",
    "sweet cookies",
    "pancakes",
    "hot cocoa",
)
