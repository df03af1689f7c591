"""The words that titles in the simulated world are made of; data only."""

from __future__ import annotations

TOPICS: dict[str, tuple[str, ...]] = {
    "cooking": ("Bread", "Noodle", "Spice", "Dessert", "Campfire"),
    "travel": ("Harbour", "Desert", "Railway", "Island", "Market"),
    "music": ("Piano", "Drum", "Choir", "Synth", "Fiddle"),
    "gardening": ("Rose", "Orchard", "Herb", "Moss", "Greenhouse"),
    "history": ("Empire", "Castle", "Map", "Trade", "Archive"),
    "science": ("Comet", "Enzyme", "Magnet", "Fossil", "Quantum"),
    "sport": ("Marathon", "Rowing", "Climbing", "Tennis", "Velodrome"),
    "crafts": ("Pottery", "Knitting", "Woodcut", "Leather", "Origami"),
    "film": ("Western", "Heist", "Musical", "Noir", "Silent"),
    "games": ("Chess", "Puzzle", "Arcade", "Dungeon", "Strategy"),
    "nature": ("Otter", "Glacier", "Forest", "Reef", "Falcon"),
    "design": ("Poster", "Chair", "Font", "Lamp", "Textile"),
    "money": ("Budget", "Savings", "Startup", "Tax", "Pension"),
    "health": ("Sleep", "Yoga", "Breathing", "Posture", "Walking"),
    "language": ("Grammar", "Dialect", "Rhyme", "Translation", "Alphabet"),
    "cars": ("Rally", "Engine", "Roadster", "Electric", "Restoration"),
    "photography": ("Portrait", "Night", "Macro", "Street", "Film"),
    "pets": ("Puppy", "Parrot", "Kitten", "Aquarium", "Pony"),
    "poetry": ("Sonnet", "Ballad", "Haiku", "Epic", "Ode"),
    "mystery": ("Detective", "Lighthouse", "Cipher", "Manor", "Vanishing"),
}
"""A category and the topics in it, in the order a curious user walks through them."""

ADJECTIVES = (
    "Quiet", "Golden", "Hidden", "Northern", "Curious", "Little", "Bright", "Lost", "Gentle",
    "Restless", "Silver", "Crooked", "Distant", "Honest", "Velvet", "Wandering", "Stubborn",
    "Luminous", "Forgotten", "Patient",
)  # fmt: skip

FORMS = (
    "Hour", "Stories", "Workshop", "Diaries", "Guide", "Season", "Letters", "Lessons", "Club",
    "Notebook", "Evenings", "Road", "Encounters", "Basics", "Almanac", "Challenge", "Secrets",
    "Conversations", "Weekend", "Portraits",
)  # fmt: skip

CREATOR_NAMES = (
    "Avela", "Brand", "Corvin", "Dahlia", "Edo", "Fenna", "Goran", "Hale", "Ines", "Joris", "Kaito",
    "Lumi", "Marek", "Nadia", "Orla", "Pavel", "Quill", "Rosa", "Sander", "Tove",
)  # fmt: skip
