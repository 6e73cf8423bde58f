"""ImageHear: pictures of 30 kinds of sounding things, and the AudioSet classes that count as the sound of each.

ImageHear (Sheffer and Adi 2022, arXiv 2211.03089, section 4) names a picture by its class and a number, "dog2.jpg". The
paper's own mapping of classes is not used: this one is ours, and part of every report.
"""

import re
from pathlib import Path

from sonolume.utils import files
from sonolume.utils.errors import UserError

CLASSES: dict[str, tuple[str, ...]] = {  # class of ImageHear -> names of AudioSet's classes
    "accordion": ("Accordion",),
    "bass": ("Bass guitar", "Double bass"),
    "bells": ("Bell", "Church bell", "Jingle bell", "Change ringing (campanology)", "Chime", "Tubular bells"),
    "bird": ("Bird", "Bird vocalization, bird call, bird song", "Chirp, tweet", "Squawk", "Crow", "Caw", "Owl", "Hoot"),
    "bongo": ("Drum", "Percussion", "Tabla"),
    "car": ("Car", "Car passing by", "Motor vehicle (road)", "Vehicle horn, car horn, honking"),
    "cat": ("Cat", "Purr", "Meow", "Caterwaul"),
    "chicken": ("Chicken, rooster", "Fowl", "Cluck", "Crowing, cock-a-doodle-doo"),
    "cow": ("Cattle, bovinae", "Moo", "Cowbell"),
    "cricket": ("Cricket", "Insect"),
    "dog": ("Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)"),
    "drums": ("Drum kit", "Drum", "Snare drum", "Bass drum", "Cymbal", "Hi-hat", "Drum roll", "Rimshot", "Percussion"),
    "duck": ("Duck", "Quack", "Goose", "Honk"),
    "flute": ("Flute", "Wind instrument, woodwind instrument"),
    "frog": ("Frog", "Croak"),
    "guitar": ("Guitar", "Electric guitar", "Acoustic guitar", "Steel guitar, slide guitar", "Strum",
               "Plucked string instrument"),
    "gun": ("Gunshot, gunfire", "Machine gun", "Fusillade", "Artillery fire", "Cap gun", "Explosion"),
    "harmonica": ("Harmonica",),
    "horse": ("Horse", "Clip-clop", "Neigh, whinny"),
    "lion": ("Roaring cats (lions, tigers)", "Roar"),
    "motorcycle": ("Motorcycle", "Accelerating, revving, vroom", "Medium engine (mid frequency)"),
    "people": ("Speech", "Male speech, man speaking", "Female speech, woman speaking", "Conversation", "Crowd",
               "Chatter", "Hubbub, speech noise, speech babble", "Cheering", "Applause", "Laughter"),
    "piano": ("Piano", "Electric piano", "Keyboard (musical)"),
    "police": ("Police car (siren)", "Siren", "Emergency vehicle", "Ambulance (siren)"),
    "rain": ("Rain", "Raindrop", "Rain on surface"),
    "saxophone": ("Saxophone",),
    "sheep": ("Sheep", "Bleat", "Goat"),
    "train": ("Train", "Rail transport", "Train whistle", "Train horn", "Railroad car, train wagon"),
    "trumpet": ("Trumpet", "Brass instrument"),
    "waterfall": ("Waterfall", "Stream", "Water", "Waves, surf"),
}  # fmt: skip


def read(folder: Path) -> dict[str, Path]:
    """List the pictures of a folder by name, without those of other classes.

    Raises:
        UserError: there is none whose name is a class with a number.
    """
    pictures = {path.stem: path for path in files.pictures_in(folder) if class_of(path.stem) in CLASSES}
    if not pictures:
        raise UserError(f"--imagehear {folder}: no pictures named by class and number, such as dog2.jpg")
    return pictures


def class_of(name: str) -> str:
    """Class of a picture's name: "dog" of "dog2"."""
    return re.sub(r"\d+$", "", name).lower()
