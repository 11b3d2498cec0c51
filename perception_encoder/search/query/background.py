"""Names of everyday things: what pictures may show instead of what is looked for."""

from __future__ import annotations

_LINES = (
    "man, woman, child, baby, crowd, family, face, hand, eye, hair, portrait, selfie, soldier, doctor, cook",
    "worker, dancer, musician, athlete, wedding",
    "dog, cat, horse, cow, sheep, pig, goat, rabbit, mouse, squirrel, deer, bear, wolf, fox, lion, tiger",
    "elephant, giraffe, zebra, monkey, kangaroo, camel",
    "bird, chicken, duck, swan, eagle, owl, parrot, penguin, peacock, fish, shark, whale, octopus, jellyfish",
    "turtle, snake, lizard, frog, snail, spider, bee, butterfly, fly, beetle, worm, dinosaur, dragon",
    "tree, forest, leaf, flower, sunflower, orchid, cactus, fern, grass, moss, bush, palm tree, vegetable garden",
    "bouquet, seed",
    "apple, grapes, strawberry, cherry, pear, coconut, nut, tomato, potato, onion, pumpkin, corn, lettuce",
    "broccoli, beans, mushroom, bread, cake, cookie, pizza, hamburger, sandwich, pasta, rice, soup, salad, sushi",
    "cheese, egg, meat, sausage, butter, chocolate, candy, ice cream, honey, milk, juice, coffee, tea, beer, wine",
    "bottle, can, carton",
    "plate, bowl, glass, mug, fork, knife, spoon, pan, pot, kettle, toaster, oven, refrigerator, sink, dishwasher",
    "shirt, coat, jacket, sweater, suit, jeans, sock, boot, sandal, glove, scarf, belt, tie, cap, helmet, uniform",
    "glasses, ring, necklace, handbag, backpack, suitcase, wallet, umbrella",
    "table, desk, sofa, bed, bench, stool, shelf, cupboard, drawer, mirror, curtain, carpet, pillow, blanket",
    "candle, clock, vase, picture frame, door, window, stairs, roof, fence, wall, brick, key, lock",
    "book, newspaper, letter, page of text, map, calendar, chart, poster, painting, drawing, sculpture, stamp",
    "coin, flag, logo, screenshot, handwriting, receipt, card",
    "pen, pencil, scissors, paper, box, bag, basket, bucket, rope, chain, hammer, saw, screwdriver, drill, ladder",
    "axe, shovel, broom, brush, needle, nail, gear, spring, battery, magnet",
    "computer, laptop, keyboard, phone, tablet, television, radio, loudspeaker, microphone, printer, robot, cable",
    "light bulb, flashlight, telescope, microscope, thermometer, scale",
    "car, bus, truck, van, taxi, train, tram, bicycle, motorcycle, scooter, tractor, crane, boat, ship, canoe",
    "submarine, helicopter, rocket, balloon, parachute, wheel, engine, tire",
    "house, apartment building, skyscraper, church, temple, castle, tower, bridge, tunnel, lighthouse, windmill",
    "barn, factory, school, hospital, shop, market, restaurant, kitchen, bathroom, bedroom, living room, office",
    "garage, stadium, theatre, museum, station, airport, harbour, road, street, traffic light, road sign",
    "parking lot, playground, park, fountain, statue, cemetery, ruins, tent",
    "mountain, hill, valley, desert, beach, island, sea, wave, lake, river, waterfall, swamp, cave, volcano, rock",
    "sand, snow, ice, cloud, sky, sunset, night, moon, star, galaxy, rain, storm, lightning, rainbow, fog, fire",
    "smoke, fireworks, shadow",
    "ball, football, basketball, tennis racket, golf club, baseball bat, skateboard, ski, surfboard",
    "swimming pool, running, climbing, boxing, chess, dice, playing cards, puzzle, toy, doll, teddy bear, kite",
    "swing, balloon animal, mask, costume, gift, christmas tree",
    "guitar, piano, violin, drum, trumpet, flute, bell, sword, gun, arrow, shield, crown, cross, heart, skull",
    "bone, tooth, brain scan, pill, syringe, bandage, soap, toothbrush, comb, perfume, towel, toilet, bathtub",
    "tattoo",
    "pattern, stripes, texture, wood, metal, stone, marble, fabric, leather, plastic, glass window, water drop",
    "bubble, feather, shell, nest, egg shell, fur, wing, tail",
)
BACKGROUND = tuple(name for line in _LINES for name in line.split(", "))
"""People, animals, plants, food, clothes, things of the house, tools, vehicles, buildings, places, weather, sports.

A few hundred: among fewer, one too often looks right for what none of them names.
"""
