"""Makes triples of items from descriptions that a language model wrote, by words of a closed vocabulary.

    python benchmarks/description_triples.py --texts llm_texts.parquet --out triples.csv

No language model is asked here: `sllmr attributes` would have one choose from the same vocabulary, for a request an
item. What is matched are words of the descriptions (kind ``item``) of a text table about video games, so the triples
know nothing that the descriptions do not say. Names that a description compares the item with ("similar to Myst and
Syberia") are tails of the relation ``like``, with confidence 0.5. Writes ``head, relation, tail, confidence``.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pandas as pd

from sllmr_plugin.knowledge.triples import Triples
from sllmr_plugin.scores.reading import read_table

VOCABULARY: dict[str, dict[str, str]] = {
    "platform": {
        "PlayStation 4": r"PlayStation 4|PS4",
        "PlayStation 3": r"PlayStation 3|PS3",
        "PlayStation 2": r"PlayStation 2|PS2",
        "PlayStation": r"PlayStation(?! [234]| Vita| Portable)|PSX|PS1",
        "PSP": r"PSP|PlayStation Portable",
        "Vita": r"Vita",
        "Xbox One": r"Xbox One",
        "Xbox 360": r"Xbox 360",
        "Xbox": r"Xbox(?! One| 360)",
        "Wii U": r"Wii U",
        "Wii": r"Wii(?! U)",
        "Switch": r"Switch",
        "3DS": r"3DS",
        "DS": r"(?<!3)DS\b",
        "GameCube": r"GameCube",
        "Nintendo 64": r"Nintendo 64|N64",
        "Game Boy": r"Game Boy|GBA",
        "Dreamcast": r"Dreamcast",
        "PC": r"PC\b|Windows",
        "Mac": r"Mac\b",
    },
    "kind": {
        "console": r"console\b|handheld system",
        "controller": r"controller|gamepad|joystick|steering wheel",
        "headset": r"headset|headphones",
        "case": r"\bcase\b|carrying|pouch|sleeve|protector",
        "cable": r"cable|adapter|adaptor|AC power",
        "charger": r"charg|battery",
        "memory": r"memory card|memory stick|hard drive|storage",
        "figure": r"figure|amiibo|Skylander",
        "card": r"gift card|prepaid|subscription|download code",
        "game": r"\bgame\b|shooter|adventure|role-playing|RPG|platformer|simulation",
    },
    "genre": {
        "shooter": r"shooter|shooting",
        "role-playing": r"role-playing|RPG",
        "platformer": r"platformer|platforming|platform game",
        "racing": r"racing|driving|kart",
        "sports": r"sports|football|basketball|soccer|baseball|hockey|golf|wrestling",
        "fighting": r"fighting|fighter|brawler",
        "puzzle": r"puzzle|match-three|brain",
        "strategy": r"strategy|tactic",
        "simulation": r"simulation|simulator|\bsim\b|tycoon",
        "adventure": r"adventure",
        "action": r"\baction\b|hack-and-slash",
        "music": r"music|rhythm|dance|karaoke",
        "party": r"party|minigame",
        "horror": r"horror|zombie|survival",
        "stealth": r"stealth",
        "open world": r"open[- ]world|sandbox",
        "fitness": r"fitness|exercise|workout",
    },
    "setting": {
        "fantasy": r"fantasy|magic|dragon",
        "science fiction": r"sci-fi|science[- ]fiction|space|alien|cyberpunk|futuristic",
        "military": r"military|World War|\bwar\b|modern warfare",
        "crime": r"crime|gangster|mafia|police|detective",
        "history": r"histor|medieval|ancient",
        "superhero": r"superhero|Batman|Spider-Man|Marvel",
        "cartoon": r"cartoon|Disney|LEGO|anime|animated",
    },
    "audience": {
        "children": r"children|\bkids\b|family|families|all ages",
        "mature": r"mature|adults?\b|gory|violent",
        "teens": r"teens?\b",
    },
    "play": {
        "multiplayer": r"multiplayer|co-op|cooperative|online",
        "single player": r"single[- ]player|solo",
    },
}
_COMPARED = re.compile(r"(?:similar|comparable|related|akin|rival|alternative|like)(?: mostly)? to ([A-Z0-9][^.;()]*)")
_NAME = re.compile(r"[A-Z0-9][\w'’&!:.\-]*(?: (?:of|the|and|in|for|[A-Z0-9IVX][\w'’&!:.\-]*))*")


def triples_of(item: object, text: str) -> list[tuple[object, str, str, float]]:
    """Return the triples of one item."""
    found = [
        (item, relation, tail, 1.0)
        for relation, values in VOCABULARY.items()
        for tail, pattern in values.items()
        if re.search(pattern, text, re.IGNORECASE if relation != "platform" else 0)
    ]
    for compared in _COMPARED.findall(text):
        for part in re.split(r",| and | or ", compared):
            name = _NAME.match(part.strip())
            if name and len(name.group()) > 3:
                found.append((item, "like", name.group().strip(" .:").casefold(), 0.5))
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", required=True, help="table of sllmr texts with rows of kind item")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    texts = read_table(arguments.texts, "texts").frame
    texts = texts[texts["kind"] == "item"]
    rows = [row for item, text in zip(texts["id"], texts["text"], strict=True) for row in triples_of(item, text)]
    frame = pd.DataFrame(rows, columns=["head", "relation", "tail", "confidence"]).drop_duplicates(ignore_index=True)
    frame.to_csv(arguments.out, index=False)
    print(Triples.read(arguments.out))
    shared = frame.groupby(["relation", "tail"])["head"].nunique()
    print(f"tails: {len(shared)}, of two items or more: {int((shared > 1).sum())}")
    print(f"items with a triple: {frame['head'].nunique()} of {len(texts)}")


if __name__ == "__main__":
    main()
