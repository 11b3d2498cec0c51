"""Names of models: the catalogue's names as plain nouns, the class of each, and classes that are easily confused.

An osaka chair is of the class chair. Two classes of one family, such as chairs and stools, are never in one scene, so
that a count has one answer.
"""

from __future__ import annotations

import re


def _words(text: str) -> tuple[str, ...]:
    """Split a text at its commas."""
    return tuple(" ".join(text.split()).split(", "))


def _pairs(text: str) -> dict[str, str]:
    """Split a text at its commas into `name: other name`."""
    return {name: other for name, _, other in (pair.partition(": ") for pair in _words(text))}


EXCLUDED = re.compile(
    r"^(socket|range hood|hood|shower|sink$|arrow|parking|pedestrian|rail|concrete sidewalk|bill |cctv|smoke|"
    r"thermometer|electric water heater|boiler|chimney|round chimney|tool|little bank|wood bank|child game|"
    r"children game|barnum|shape|"
    r"opened convertible|island extension|porch column|diving board|short$|frame |washbasin|urinal|radiator|"
    r"wire coathanger|clothes hanger|contemporary living room|fork lift|utensils|kitchen tools|plate, glass|mp3|"
    r"holding|furnace|hook|convertible sofa|fitness tower|cosmetics pot|lying down|screen door|white board|"
    r"spice tower)",
    re.IGNORECASE,
)
"""Names of objects that hang, lie flat or are several at once, and names that do not say what the object is."""

RENAMED = _pairs("""
female: woman, male: man, sitting male: sitting man, sitting female: sitting woman, mannequin male: mannequin,
mannequin female: mannequin, trunck: trunk, mocassin: moccasin, bootie: boot, hashtray: ashtray,
flacon: perfume bottle, toilets unit: toilet, bath: bathtub, class seat: school chair, teck chair: teak chair,
woman shoes: pair of women's shoes, slippers: pair of slippers, sneakers: pair of sneakers, glasses: pair of glasses,
sunglasses: pair of sunglasses, scissors: pair of scissors, trousers: pair of trousers, headphones: pair of headphones,
cutting pliers: pair of pliers, shelves: shelf, vertical shelves: shelf, wood logs: pile of logs,
apples: heap of apples, french fries: portion of french fries, folded clothes: pile of clothes, orchids: orchid,
tulips: bunch of tulips, flowers: bunch of flowers, keys: bunch of keys, butter: piece of butter, bread: loaf of bread,
milk: carton of milk, sugar: sugar bowl, soap: bar of soap, puff: pouf, lip stick: lipstick, cup cake: cupcake,
large stove: stove, large pan: pan, large fridge: fridge, old jar: jar, clear sofa: sofa, black table: table,
tape: roll of tape, flipper: pinball machine, playstation: game console, extinguisher: fire extinguisher,
table on trestles: trestle table, screen: folding screen, biplane: toy biplane, car model: toy car,
wood toy: wooden toy, copper beech: beech tree, pine: pine tree, poplar: poplar tree, cypress: cypress tree,
acacia: acacia tree, ficus: ficus plant, bonsai tree: bonsai, yucca: yucca plant, bamboo: bamboo plant,
bended coconut tree: coconut tree, japanese maple: maple tree, sycamore maple: maple tree,
blue pine under snow: snowy pine tree, pine under snow: snowy pine tree, peach blossom: peach tree,
spathiphyllum: peace lily, concept sedan: car, concept sedan sport: car, ford focus: car, vw new beetle: car,
seat leon: car, peugeot cc: car, renault scenic: car, chevrolet: car, smart car: car, suv: car,
yamaha yzr r: motorbike, apple ibook: laptop, apple imac: computer, apple iphone: phone, osaka chair: chair,
winchester armchair: armchair, winchester sofa: sofa, seats sofa: sofa, sofa seats: sofa, ryokan chair: chair,
captain's bed: bed, rigged fan: fan, abdominal bench: workout bench, locked locker: locker,
bullet trash can: trash can, electronic scale: kitchen scale, induction cooker zones: induction hob, cooktop: hob,
clothes washing machine: washing machine, card game: deck of cards, oil servers: oil bottle,
bowl with fruits: bowl of fruit, bowl with salad: bowl of salad, stone grill device: stone grill, pottery: clay pot
""")
"""Better words for the catalogue's."""
CLASSES = _pairs("""
sitting man: man, sitting woman: woman, sitting boy: boy, sitting girl: girl, bulldog: dog, siamese cat: cat,
couch: sofa, refrigerator: fridge, chair with cushion: chair, table with tablecloth: table, full bookcase: bookcase,
desk table: desk, coffee mug: mug, bike: bicycle, indoor bike: exercise bike, succulent plant: plant
""")
"""Classes of labels whose last word does not say it."""
HEADS = _words("""
chair, armchair, table, sofa, bed, bench, stool, plant, tree, lamp, bottle, glass, knife, cabinet, box, desk, cup,
trashcan, bin, umbrella, clock, phone, piano, locker, fence
""")
"""Classes of all labels that end in this word, unless in NO_HEADS."""
NO_HEADS = _words("christmas tree, football table, high chair, pool table, tape measure, toy car")
FAMILIES = tuple(
    _words(line)
    for line in """
chair, armchair, stool, bench, sofa, ottoman, pouf, wheelchair, baby high chair, bed, futon
table, desk, workbench, vanity, table tennis, dressing table, changing table, pool table
cup, mug, glass, bowl, jar, teapot, creamer, vase, clay pot, sugar bowl
plant, tree, bonsai, orchid, cactus, christmas tree, bush, hedge, high hedge, peace lily
man, woman, boy, girl, mannequin, doll, snowman
cabinet, cupboard, wardrobe, bookcase, shelf, chest, locker, dresser, box, crate, trunk
car, van, truck, bus, toy car, city bus
phone, tablet, laptop, computer, tv
bicycle, exercise bike, motorbike, scooter, tricycle
trash can, dustbin, trashcan, bin
ball, soccer ball, basketball
lego brick, wooden block, cube, domino
oven, stove, fridge, hob
""".strip().splitlines()
)
"""Classes that are easily confused; a family has the name of its first class."""
FAMILY_OF = {name: family[0] for family in FAMILIES for name in family}
SUPPORTS = _words("""
armchair ottoman, bed, bench, book, bookcase, box, cabinet, chair, changing table, chest, chest freezer, crate, cube,
cupboard, desk, double oven, dresser with drawers, dressing table, dryer machine, fireplace, fridge, island,
lego brick, locker, medicine box, microwave, oven, pallet, piano, pool table, pouf, safe, shelf, small oven, sofa,
speaker, stool, stove, suitcase, table, table tennis, tatami, trampoline, tray, trunk, tv stand, washing machine,
wooden block, workbench
""")
"""Classes of objects that others may stand on, if their top is level."""
ROUND = _words("ball, basketball, soccer ball")
"""Classes of objects that roll."""
NEVER_TINTED = _words("bathroom, characters, exterior, kitchen, miscellaneous")
"""Categories of objects that have typical colours: food, people, plants, tools."""
IRREGULAR = _pairs("shelf: shelves, knife: knives, loaf: loaves, deer: deer, bus: buses")


def label_of(name: str) -> str:
    """Turn a catalogue's name into a noun: lower case, without numbers and makers."""
    plain = re.sub(r"\b\d[\d:°]*\b|\b[ivx]+$", "", name.lower())
    plain = " ".join(plain.split())
    return RENAMED.get(plain, plain)


def class_of(name: str) -> str:
    """Return the class of an object with this name in a catalogue."""
    label = label_of(name)
    if label in CLASSES or label in NO_HEADS:
        return CLASSES.get(label, label)
    last = label.rsplit(" ", 1)[-1]
    return last if last in HEADS and " of " not in label else label


def family_of(class_name: str) -> str:
    """Return the first class of this class's family, or the class itself if it has no family."""
    return FAMILY_OF.get(class_name, class_name)


def plural_of(noun: str) -> str:
    """Return the plural of a label."""
    head, of, rest = noun.partition(" of ")
    first, space, last = head.rpartition(" ")
    if last.endswith("man"):
        plural = f"{last[:-3]}men"
    elif last in IRREGULAR:
        plural = IRREGULAR[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        plural = f"{last}es"
    elif re.search(r"[^aeiou]y$", last):
        plural = f"{last[:-1]}ies"
    else:
        plural = f"{last}s"
    return f"{first}{space}{plural}{of}{rest}"
