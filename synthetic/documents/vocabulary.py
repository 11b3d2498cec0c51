"""The words of documents: for each category the entries of train and val, and those that only test has.

Names, items and texts of signs are split. Labels such as "Total", months, years and numbers are shared.
"""

from __future__ import annotations

from functools import cache

_TRAIN = {
    "shop name": """Green, Corner, Sunrise, Harbour, Golden, Family, Central, Lucky, Riverside, Village, Oak Tree,
        Blue Door, Station, Old Mill, Hilltop, Royal, Daily, City, Park, Little Garden""",
    "shop type": "Market, Bakery, Grocery, Store, Deli, Coffee, Kitchen, Foods, Shop, Bistro, Mini Mart, Pharmacy",
    "item": """Apples, Bananas, Bread, Milk, Butter, Cheese, Eggs, Coffee, Green tea, Sugar, Rice, Pasta, Flour, Salt,
        Tomatoes, Potatoes, Onions, Carrots, Chicken, Ham, Orange juice, Water, Soap, Shampoo, Toothpaste, Batteries,
        Notebook, Pencil, Candle, Towel, Cookies, Chocolate, Yogurt, Honey, Jam, Cereal, Lemon, Grapes, Soup, Salad,
        Sandwich, Croissant, Muffin, Bagel, Pizza, Ice cream, Paper bags, Light bulb, Olive oil, Pepper""",
    "first name": """Anna, Ben, Carla, David, Emma, Frank, Grace, Henry, Ines, Jack, Karen, Leo, Maria, Noah, Olga,
        Paul, Rosa, Sam, Tina, Victor, Laura, Peter, Julia, Mark, Nina, Oscar, Alice, Tom""",
    "last name": """Smith, Miller, Brown, Garcia, Jones, Davis, Lopez, Wilson, Moore, Taylor, White, Harris, Clark,
        Lewis, Young, King, Wright, Scott, Hill, Adams, Baker, Nelson, Carter, Turner, Cook, Bell""",
    "street": "Main Street, Oak Avenue, Church Road, Park Lane, High Street, Elm Street, Lake Road, Hill Way",
    "city": """London, Paris, Berlin, Madrid, Rome, Vienna, Dublin, Boston, Chicago, Denver, Seattle, Austin, Toronto,
        Sydney, Oslo, Lisbon, Prague, Athens, Miami, Dallas""",
    "job": "Teacher, Engineer, Nurse, Driver, Cook, Designer, Lawyer, Farmer, Manager, Plumber, Writer, Student",
    "company": "Acme, Globex, Initech, Umbra, Vertex, Nimbus, Orion, Delta, Apex, Solaris, Quantum, Pioneer",
    "product": "Chairs, Tables, Lamps, Phones, Laptops, Bikes, Shoes, Books, Cars, Cameras, Watches, Toys, Sofas",
    "fruit": "Apples, Pears, Plums, Kiwis, Limes, Dates, Figs, Melons, Grapes, Berries",
    "animal": "Dogs, Cats, Birds, Fish, Horses, Sheep, Goats, Ducks, Cows, Bees",
    "sport": "Tennis, Golf, Hockey, Rugby, Chess, Judo, Skiing, Boxing, Rowing",
    "team": "Lions, Bears, Hawks, Wolves, Tigers, Sharks, Eagles, Bulls, Rams, Foxes",
    "subject": """Sales, Visitors, Exports, Rainfall, Profit, Orders, Members, Tickets, Output, Costs, Users, Votes,
        Goals, Points, Births, Prices, Income""",
    "sign": """OPEN, CLOSED, EXIT, PUSH, PULL, SALE, NO PARKING, NO SMOKING, WET FLOOR, KEEP LEFT, PRIVATE, TAXI,
        INFORMATION, TICKETS, FRESH BREAD, FREE WIFI, PLEASE RING BELL, STAFF ONLY, HOT DRINKS, BUS STOP, NO ENTRY,
        FIRE EXIT, SLOW DOWN, ROAD CLOSED, PAY HERE, GIFT SHOP, HAIR SALON, FLOWERS, FOR RENT, BEWARE OF DOG""",
    "destination": """Airport, Town Hall, Beach, Museum, Stadium, Hospital, Market Square, Zoo, Castle, Harbour,
        University, Railway Station, Lake, Old Town, Camping""",
    "warning": "BUMP, DEER, FALLING ROCKS, ROAD WORK, SCHOOL, STEEP HILL, SLIPPERY, TRAIN, ONE LANE, DEAD END",
}
_TEST = {
    "shop name": "Maple, Silver, Lighthouse, Sunset, Meadow, Crystal, Willow, Northern",
    "shop type": "Emporium, Patisserie, Supermarket, Pantry, Trattoria",
    "item": """Peaches, Spinach, Salmon, Bacon, Mustard, Vinegar, Cucumber, Mushrooms, Walnuts, Espresso, Lemonade,
        Detergent, Sponge, Umbrella, Pancakes, Raspberries, Baguette, Noodles""",
    "first name": "Quentin, Sophie, Walter, Yvonne, Zoe, Felix, Hannah, Martin, Bruno",
    "last name": "Robinson, Murphy, Hughes, Fischer, Olsen, Novak, Watson, Bennett",
    "street": "Cedar Drive, Queens Terrace, Birch Court, Valley Boulevard",
    "city": "Zurich, Helsinki, Munich, Warsaw, Houston, Portland, Naples, Geneva",
    "job": "Pilot, Dentist, Carpenter, Chemist, Editor, Gardener",
    "company": "Zenith, Cobalt, Hexagon, Lumina, Stratus, Vortex",
    "product": "Desks, Tablets, Guitars, Jackets, Ovens, Printers, Mirrors",
    "fruit": "Cherries, Mangos, Papayas, Apricots, Coconuts, Quinces, Guavas",
    "animal": "Rabbits, Owls, Whales, Camels, Frogs, Swans, Otters",
    "sport": "Soccer, Cricket, Sailing, Archery, Karate, Squash, Surfing",
    "team": "Ravens, Pirates, Falcons, Panthers, Comets, Rockets, Cobras",
    "subject": "Revenue, Downloads, Harvest, Passengers, Donations, Imports, Subscribers",
    "sign": """ENTRANCE, QUIET ZONE, DANGER, RECEPTION, SMOOTHIE BAR, BOOKSTORE, NO SWIMMING, LIBRARY, BARBER,
        DO NOT TOUCH""",
    "destination": "Theatre, Cathedral, Ferry, Waterfall, Botanic Centre, Tower",
    "warning": "MOOSE, SHARP BEND, FLOODING, PEDESTRIANS, FALLEN TREE, NARROW BRIDGE",
}
CATEGORIES = tuple(_TRAIN)


@cache
def vocabulary(category: str, split: str) -> tuple[str, ...]:
    """Return the entries of a category that a split may use."""
    text = (_TEST if split == "test" else _TRAIN)[category]
    return tuple(" ".join(entry.split()) for entry in text.split(","))


@cache
def held_out_words() -> frozenset[str]:
    """Return the words, in small letters, that entries of test have and no entry of train."""
    train, test = (
        {word for category in CATEGORIES for entry in vocabulary(category, split) for word in entry.lower().split()}
        for split in ("train", "test")
    )
    return frozenset(test - train)


MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
YEARS = tuple(str(year) for year in range(2010, 2026))
