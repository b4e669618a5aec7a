"""What a hostile visitor does, each kind a function of one go: over and over, within the app's limits.

    attacker = Attacker(server)
    ATTACKS["sql-values"](attacker)              # one go
    attacker.keep_on("sql-values", over)         # until the event is set
    attacker.answers                             # error sentence → how often the app answered with it

All that it sends could come from a browser; nothing here reads the code of the app.
"""

from __future__ import annotations

import random
import socket
import string
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode

from websockets.exceptions import WebSocketException

from atlas.errors import AtlasError
from atlas.experiments import documents
from atlas.experiments.experiment import Experiment
from atlas.interventions import Edit
from atlas.neuron import ExperimentPrompt, Neuron, Prompt
from build.bench.sockets import Server, Visitor

ATLAS = "starter-pocket-bert"
PAGES = ("", "search", "fact", "relation", "neuron", "compare", "sql", "atlases")
ENDLESS = "SELECT count(*) FROM range(100000000000) a, range(100000) b"
# What goes wrong for an attacker is no error of the bench: a server may well refuse it.
REFUSED = (OSError, TimeoutError, WebSocketException, AtlasError, KeyError, EOFError)


@dataclass
class Attacker:
    """One hostile person, with as many sessions as it likes; `goes`: how many attacks it has made."""

    server: Server
    seed: int = 0
    goes: int = 0
    answers: Counter = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def keep_on(self, name: str, over: threading.Event) -> None:
        """Attack until the event is set."""
        self.over = over
        while not over.is_set():
            try:
                ATTACKS[name](self)
            except REFUSED as error:
                self.answers[type(error).__name__] += 1
                over.wait(0.1)
            self.goes += 1

    def visit(self, page: str, stay: float, /, **parameters: str) -> list[str]:
        """Open a page in a session of its own, for some seconds or until it is drawn; then leave at once.

        Returns the errors that it shows.
        """
        with Visitor(self.server) as visitor:
            visitor.ask(page, **{"atlas": ATLAS} | parameters)
            errors = self.stay(visitor, stay)
            visitor.leave(at_once=True)
        return errors

    def go_on(self) -> None:
        """Raise `TimeoutError` once all is over."""
        if self.over.is_set():
            raise TimeoutError

    def stay(self, visitor: Visitor, seconds: float) -> list[str]:
        """Wait until nothing runs or the seconds have passed; returns the errors that the page shows."""
        self.go_on()
        try:
            visitor.wait(lambda: visitor.settled, seconds)
        except TimeoutError:
            self.answers["(left before the answer)"] += 1
        self.answers.update(error[:160] for error in visitor.errors)
        return visitor.errors

    def letters(self, n: int) -> str:
        return "".join(self.random.choices(string.ascii_lowercase, k=n))


# SQL -------------------------------------------------------------------------------------------------


def ask_for_values(attacker: Attacker) -> None:
    """Millions of Python objects in few bytes of Arrow."""
    name = attacker.letters(6)
    attacker.visit(
        "sql", 20, sql=f"SELECT list_resize([{{'a':true}}],10000,{{'a':true}}) {name} FROM range(5000)"
    )


def ask_for_long_errors(attacker: Attacker) -> None:
    """An error's message of megabytes."""
    attacker.visit("sql", 20, sql=f"SELECT error(repeat('{attacker.letters(1)}',9000000))")


def ask_for_large_answers(attacker: Attacker) -> None:
    """Thirty megabytes of text, and away before they come."""
    sql = f"SELECT repeat('{attacker.letters(6)}', 1000) || i AS x FROM range(5000) t(i)"
    attacker.visit("sql", attacker.random.choice((0.5, 1.0, 5.0)), sql=sql)


def ask_without_end(attacker: Attacker) -> None:
    """A query that runs until it is stopped, again and again."""
    attacker.visit("sql", 40, sql=f"{ENDLESS} -- {attacker.letters(6)}")


def ask_and_leave(attacker: Attacker) -> None:
    """The same, from a visitor who is gone a moment later."""
    attacker.visit("sql", 0.3, sql=f"{ENDLESS} -- {attacker.letters(6)}")


def ask_other_atlases(attacker: Attacker) -> None:
    """A query in every atlas that can be chosen, so that each takes a process."""
    for atlas in ("starter-smollm2-135m", "third", ATLAS):
        attacker.visit("sql", 10, atlas=atlas, sql=f"SELECT count(*), '{attacker.letters(6)}' FROM facts")


def ask_for_memory(attacker: Attacker) -> None:
    """A query that takes all the memory that a query may have."""
    attacker.visit(
        "sql",
        20,
        sql=f"SELECT len(list(i)), '{attacker.letters(6)}' FROM range(400000000) t(i) GROUP BY i % 3",
    )


# The Lab ---------------------------------------------------------------------------------------------


def heavy_link(n_neurons: int, n_prompts: int = 116, draws: int = 10, seed: int = 0) -> str:
    """The value of the Lab's `x` for two edits of so many neurons of pocket-bert, within 50,000 bytes."""
    neurons = tuple(Neuron(i % 3, i // 3) for i in range(n_neurons))
    places = ("Oslo", "Paris", "Rome", "Berlin", "Madrid", "London", "Tokyo", "Cairo")
    prompts = tuple(
        ExperimentPrompt(
            "asked" if i < 16 else "unrelated", Prompt("", "", f"{places[i % 8]} is in [Y].", "Norway")
        )
        for i in range(n_prompts)
    )
    edits = tuple(Edit(neurons, "France", new) for new in ("Italy", "Japan"))
    return documents.to_link(Experiment(edits, prompts, seed=seed, draws=draws, model="pocket-bert"))


def run_heavy_links(attacker: Attacker) -> None:
    """The heaviest experiment that a link may ask for, and away after four seconds."""
    for n_neurons in (1980, 900, 400, 190, 50):
        x = heavy_link(n_neurons, seed=attacker.random.randrange(10**6))
        errors = attacker.visit("lab", 4, x=x, run="1")
        if not errors:
            return


HOSTILE_TEXTS = (
    "<img src=x onerror=alert(1)>**b** [x](http://a) $\\a$ :red[no]",
    "[Y] [Y]",
    "very " * 2_000 + "[Y]",
    "\u202e\x00\x1b[31m",
    "☃" * 5_000,
    "a{X}\n" * 500,
)
HOSTILE_CHANGES = (
    *("", ":", "explode", "suppress:all", "amplify:nan", "amplify:inf", "amplify:1e308", "amplify:3:4"),
    *("set:-1e99", "set:1e-320", "erase:all", "patch:no gap", "erase:" + "x" * 5_000),
    *(f"{kind}:{text}" for kind in ("edit", "patch", "set") for text in HOSTILE_TEXTS),
)


def run_short_links(attacker: Attacker) -> None:
    """Changes of a fact that a short link names, most of them nonsense, and away after two seconds."""
    attacker.visit("lab", 2, fact="P36:france", change=attacker.random.choice(HOSTILE_CHANGES), run="1")


def ask_sentences(attacker: Attacker) -> None:
    """Sentences that the Lab has not met, with hostile answers and hundreds of wordings."""
    wordings = "".join(f"The capital of {attacker.letters(5)} is\n" for _ in range(500))
    text = attacker.random.choice((*HOSTILE_TEXTS, wordings))
    answer = attacker.random.choice((*HOSTILE_TEXTS, ""))
    attacker.visit(
        "lab", 4, prompts=f"{attacker.letters(5)} {text}", answer=answer, change="set:0.5", run="1"
    )


def read_own_texts(attacker: Attacker) -> None:
    """Texts for a neuron to read, each of them new and as long as is allowed."""
    with Visitor(attacker.server) as visitor:
        for text in (*HOSTILE_TEXTS, *(attacker.letters(3) + " paris" * 40 for _ in range(10))):
            visitor.ask("neuron", atlas=ATLAS, neuron="L2.N23", text=text, related="cosine")
            attacker.stay(visitor, 20)


def open_lists(attacker: Attacker) -> None:
    """Neuron lists in links and files: too many, of no model, with hostile names."""
    names = ",".join(f"L{n % 3}.N{n}" for n in range(200))
    for neurons in (names, names * 5, "L0.N" + "9" * 5_000, "<b>", ",,,"):
        for text in HOSTILE_TEXTS:
            attacker.go_on()
            attacker.visit("search", 10, list=neurons, list_name=text, list_note=text)
    with Visitor(attacker.server) as visitor:
        visitor.ask("search", atlas=ATLAS)
        attacker.stay(visitor, 20)
        for data in (b"[" * 100_000, b"\xff" * 100_000, b'{"name": 1e999}'):
            attacker.answers[f"upload: {visitor.upload(data, 'list.json')}"] += 1


# Sessions --------------------------------------------------------------------------------------------


def open_and_leave(attacker: Attacker) -> None:
    """A page opened by somebody who does not wait for it."""
    attacker.visit(attacker.random.choice(PAGES), 0.0)


def keep_many_open(attacker: Attacker) -> None:
    """Thirty tabs at a time."""
    visitors = []
    try:
        for _ in range(30):
            visitors.append(Visitor(attacker.server))
            visitors[-1].ask(attacker.random.choice(PAGES), atlas=ATLAS)
            attacker.stay(visitors[-1], 5)
        time.sleep(2)
    finally:
        for visitor in visitors:
            visitor.leave(at_once=True)


def reconnect(attacker: Attacker) -> None:
    """The same session, left and taken up again fifty times."""
    with Visitor(attacker.server) as first:
        first.ask("", atlas=ATLAS)
        attacker.stay(first, 20)
        session = first.session
        first.leave(at_once=True)
    for _ in range(50):
        visitor = Visitor(attacker.server, session)
        visitor.ask("fact", atlas=ATLAS, fact="P36:france")
        visitor.leave(at_once=True)


def send_many_messages(attacker: Attacker) -> None:
    """A thousand requests to run the page again, as fast as they go out."""
    with Visitor(attacker.server) as visitor:
        visitor.ask("fact", atlas=ATLAS, fact="P36:france")
        attacker.stay(visitor, 20)
        for _ in range(1000):
            visitor.send_again()
        attacker.stay(visitor, 5)


def read_nothing(attacker: Attacker) -> None:
    """Pages of large tables asked for by a visitor who reads no answer."""
    with Visitor(attacker.server) as visitor:
        for _ in range(100):
            sql = f"SELECT repeat('{attacker.letters(6)}', 150) || i AS x FROM range(5000) t(i)"
            visitor.ask("sql", atlas=ATLAS, sql=sql)
            time.sleep(0.05)


def send_large_states(attacker: Attacker) -> None:
    """Twenty megabytes of a widget's state, kept in as many sessions as the server takes."""
    visitors = []
    try:
        for _ in range(5):
            visitors.append(Visitor(attacker.server))
            visitors[-1].set("$$ID-none-None", string_value=attacker.letters(10) * 2_000_000)
            attacker.stay(visitors[-1], 10)
    finally:
        for visitor in visitors:
            visitor.leave(at_once=True)


def upload(attacker: Attacker) -> None:
    """Three hundred files of a megabyte."""
    data = attacker.letters(1000).encode() * 1000
    with Visitor(attacker.server) as visitor:
        visitor.ask("lab", atlas=ATLAS)
        attacker.stay(visitor, 20)
        for _ in range(300):
            attacker.answers[f"upload: {visitor.upload(data)}"] += 1
        visitor.leave(at_once=True)


def open_half(attacker: Attacker) -> None:
    """Two hundred connections that send half a request and wait."""
    sockets = []
    try:
        for _ in range(200):
            sockets.append(socket.create_connection(("127.0.0.1", attacker.server.port), 5))
            sockets[-1].sendall(b"GET /_stcore/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
        time.sleep(5)
    finally:
        for each in sockets:
            each.close()


def ask_for_previews(attacker: Attacker) -> None:
    """Two hundred link previews of as many addresses."""
    for _ in range(200):
        attacker.go_on()
        page = attacker.random.choice(("fact", "relation", "neuron", "search", "compare", "lab"))
        asked = {
            "fact": f"P36:{attacker.letters(8)}",
            "q": attacker.letters(150),
            "neuron": f"L{attacker.random.randrange(99)}.N{attacker.random.randrange(9999)}",
            "atlas": ATLAS,
        }
        try:
            with urllib.request.urlopen(
                f"{attacker.server.address}/{page}?{urlencode(asked)}", timeout=20
            ) as page:
                page.read()
        except urllib.error.HTTPError as error:
            attacker.answers[f"preview: {error.code}"] += 1


# Pages -----------------------------------------------------------------------------------------------


def search_for_long_texts(attacker: Attacker) -> None:
    """Searches that match nothing, each of them new and as long as is allowed."""
    with Visitor(attacker.server) as visitor:
        for _ in range(20):
            words = " ".join(attacker.letters(3) for _ in range(50))
            visitor.ask("search", atlas=ATLAS, q=words)
            attacker.stay(visitor, 20)


def write_long_queries(attacker: Attacker) -> None:
    """Queries of thousands of parameters, comments and quotes, as the editor takes them."""
    texts = ("/*" * 2500, "$a" * 1600, " ".join(f"${i}a" for i in range(800)), "'" * 5000, "$" * 5000)
    texts += ("CAST(" * 1000, "(" * 5000, "SELECT " + "-" * 4990, "$a::" * 1200)
    with Visitor(attacker.server) as visitor:
        for text in texts:
            visitor.ask("sql", atlas=ATLAS, sql=text)
            attacker.stay(visitor, 20)


def compare_at_random(attacker: Attacker) -> None:
    """Comparisons that nobody has asked for yet."""
    with Visitor(attacker.server) as visitor:
        for _ in range(20):
            a, b = (f"L{attacker.random.randrange(3)}.N{attacker.random.randrange(2048)}" for _ in range(2))
            visitor.ask("compare", atlas=ATLAS, kind="neurons", a=a, b=b)
            attacker.stay(visitor, 20)


def explain(attacker: Attacker) -> None:
    """EXPLAIN ANALYZE of an endless query."""
    attacker.visit("sql", 20, sql=f"EXPLAIN ANALYZE {ENDLESS} -- {attacker.letters(6)}")


def download(attacker: Attacker) -> None:
    """Every file that the page of a large answer offers, over and over."""
    with Visitor(attacker.server) as visitor:
        sql = f"SELECT repeat('{attacker.letters(6)}', 300) || i AS x FROM range(5000) t(i)"
        visitor.ask("sql", atlas=ATLAS, sql=sql)
        attacker.stay(visitor, 20)
        for label in 5 * ("CSV", "JSON", "Parquet"):
            visitor.download(label)


Attack = Callable[[Attacker], None]
ATTACKS: dict[str, Attack] = {
    "sql-values": ask_for_values,
    "lab-links": run_heavy_links,
    "lab-changes": run_short_links,
    "lab-sentences": ask_sentences,
    "own-texts": read_own_texts,
    "lists": open_lists,
    "sql-endless": ask_without_end,
    "sql-left": ask_and_leave,
    "sql-errors": ask_for_long_errors,
    "sql-answers": ask_for_large_answers,
    "sql-atlases": ask_other_atlases,
    "uploads": upload,
    "open-and-leave": open_and_leave,
    "sql-memory": ask_for_memory,
    "sql-explain": explain,
    "sql-editor": write_long_queries,
    "downloads": download,
    "searches": search_for_long_texts,
    "comparisons": compare_at_random,
    "previews": ask_for_previews,
    "tabs": keep_many_open,
    "reconnects": reconnect,
    "messages": send_many_messages,
    "unread": read_nothing,
    "states": send_large_states,
    "half-open": open_half,
}
