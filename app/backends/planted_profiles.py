"""The simulated profiler, ranker and critic of a profile world; like real ones they read text and nothing else.

The profiler writes what the instruction asks for. The critic names an aspect that the instruction lacks, often one that
matters, and says so where nothing is lacking; a share of its answers, and of the rewriter's, comes without markers.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import cached_property

from promptailor.app.backends.planted import PlantedChat, draw_place
from promptailor.evals.planted_profiles import ASPECTS, ProfileWorld
from promptailor.prompts.guidance import Guidance, load_guidance

INSIGHT = 0.7
"""Share of the critic's answers that name an aspect that matters, as long as one is lacking."""
SPOILT = 0.1
"""Share of answers without markers, and of profiles without a word."""

_PLACEHOLDER = re.compile(r"\{")


class ProfileChat(PlantedChat):
    """A LangChain chat model that answers in every role of AGP."""

    world: ProfileWorld

    def answer(self, system: str, user: str) -> str:
        """Answer one prompt, in the role that its text asks for."""
        rng = self._generator(system, user)
        if user.startswith(self._openings["critic"]):
            return self._criticise(user, rng)
        if user.startswith(self._openings["generalise"]):
            return self._generalise(user, rng)
        if user.startswith(self._openings["rewrite"]):
            return self._rewrite(user, rng)
        if user.startswith(self._openings["summarise"]):
            return f"Something like {_fenced(user, 'item')[0].split()[-1].lower()}."
        if "<candidates>" not in user:
            return self._profile(user, rng)
        return self._ranking(user, rng)

    def _criticise(self, user: str, rng: random.Random) -> str:
        asked = self.world.aspects_in("\n".join(_fenced(user, "instruction")))
        lacking = [aspect for aspect in self.world.needed if aspect not in asked]
        others = [aspect for aspect in ASPECTS if aspect not in asked]
        if not others or (self.world.needed and not lacking):
            return "<feedback>None.</feedback>"
        aspect = rng.choice(lacking if lacking and rng.random() < INSIGHT else others)
        return self._marked("feedback", f"Profiles should name the {aspect} that a person prefers.", rng)

    def _generalise(self, user: str, rng: random.Random) -> str:
        named = Counter(aspect for line in _fenced(user, "advice") for aspect in self.world.aspects_in(line))
        most = named.most_common(1)[0][0] if named else "weather"
        return self._marked("feedback", f"Ask for the {most} that people prefer.", rng)

    def _rewrite(self, user: str, rng: random.Random) -> str:
        instruction = "\n".join(_fenced(user, "instruction"))
        asked = self.world.aspects_in(instruction)
        new = [a for a in self.world.aspects_in("\n".join(_fenced(user, "advice"))) if a not in asked]
        added = f" Name the {new[0]} that I prefer." if new else " Take your time."
        return self._marked("prompt", instruction + added, rng)

    def _profile(self, user: str, rng: random.Random) -> str:
        titles, instruction = _fenced(user, "history"), user.rpartition("</history>")[2]
        segment = self.world.segment(_title(titles[-1].removeprefix("- "))) if titles else None
        if segment is None or rng.random() < SPOILT:
            return "..."
        lines = [f"{a}: {self.world.value(a, segment)}" for a in self.world.aspects_in(instruction)]
        return "\n".join(lines) or "A person who likes things."

    def _ranking(self, user: str, rng: random.Random) -> str:
        recent = [_title(line.removeprefix("- ")) for line in _fenced(user, "history")]
        candidates = [_title(line.partition(". ")[2]) for line in _fenced(user, "candidates")]
        profile = {line.strip().removeprefix("- ").removeprefix("taste: ") for line in _fenced(user, "profile")}
        ranking = list(range(len(candidates)))
        rng.shuffle(ranking)
        next_title = self.world.next_title(recent[-1]) if recent else None
        if next_title in candidates:
            chosen = candidates.index(next_title)
            ranking.remove(chosen)
            level = self.world.level(recent, candidates, profile)
            ranking.insert(draw_place(level, len(candidates), rng), chosen)
        return "\n".join(str(place + 1) for place in ranking)

    def _marked(self, mark: str, text: str, rng: random.Random) -> str:
        return text if rng.random() < SPOILT else f"Let me think. <{mark}>{text}</{mark}>"

    @cached_property
    def _openings(self) -> dict[str, str]:
        """What a question of each role begins with, as far as it is the same in all domains."""
        guidance: Guidance = load_guidance()
        return {
            "critic": _fixed(guidance.critic.profile),
            "generalise": _fixed(guidance.generalise.text),
            "rewrite": _fixed(guidance.rewrite.profile),
            "summarise": _fixed(guidance.summarise),
        }


def _fixed(text: str) -> str:
    return _PLACEHOLDER.split(text, maxsplit=1)[0]


def _fenced(text: str, name: str) -> list[str]:
    """Return the lines of a fence; none where there is no such fence."""
    found = re.search(rf"<{name}>\n(.*?)\n</{name}>", text, re.DOTALL)
    return found[1].split("\n") if found else []


def _title(line: str) -> str:
    """Return the title of an item's line, without its summary."""
    return line.partition(" – ")[0]
