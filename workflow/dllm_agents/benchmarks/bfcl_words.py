"""What generated tool calls speak of: topics with their verbs and parameters, and the values of parameters as a function and a person
say them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
FIRST = "Alice Bruno Chen Dara Elif Farid Grace Hugo Ines Jonas Keiko Liam Mona Nils Olga Priya Quentin Rosa Samir Tara Uma Viktor Wanda Yusuf".split()
LAST = "Meyer Okafor Silva Tanaka Novak Rossi Khan Dubois Larsen Ortiz Petrov Walsh Banerjee Costa Fischer Nguyen Abebe Lindgren".split()
CITIES = (
    "Paris;New York;Berlin;San Francisco, CA;Tokyo;Cape Town;Lima;Oslo;Austin, TX;Mumbai;Seoul;Boston, MA;Rome;Cairo;London, UK;Denver;"
    "Chicago, IL;Sydney;Toronto;Madrid;Seattle, WA;Nairobi;Vienna;Lisbon;Miami, FL;Hanoi;Dublin;Zurich;Portland, OR;Bangkok"
).split(";")
COUNTRIES = "France;Japan;Brazil;Canada;Kenya;Norway;India;Mexico;Italy;Australia;Germany;Egypt;Chile;Vietnam;Spain;Poland".split(";")
CURRENCIES = [("USD", "US dollars"), ("EUR", "euros"), ("JPY", "Japanese yen"), ("GBP", "British pounds"), ("CAD", "Canadian dollars")]
LANGUAGES = "English French Spanish German Japanese Hindi Arabic Portuguese Swahili Korean".split()
TITLES = (
    "The Silent River;Golden Letters;Last Summer;A Broken Crown;Blue Garden;Winter Light;The Paper House;Northern Roads;Glass Harbour;"
    "Night Market;The Second Sun;Quiet Machines;Field of Stars;Salt and Iron"
).split(";")
PRODUCTS = (
    "laptop;coffee grinder;running shoes;desk lamp;wireless headphones;garden hose;winter jacket;phone case;yoga mat;office chair;"
    "water bottle;mechanical keyboard;camping tent;electric kettle"
).split(";")
FOODS = "pizza;lentil soup;sushi;apple pie;pad thai;caesar salad;tacos;mushroom risotto;pancakes;chicken curry;ramen;falafel".split(";")
ANIMALS = "grey wolf;barn owl;sea turtle;red fox;snow leopard;honey bee;blue whale;emperor penguin;giant panda;tree frog".split(";")
SUBJECTS = (
    "climate change;machine learning;the Roman Empire;renewable energy;quantum computing;the French Revolution;sleep;space travel;"
    "ocean currents;modern architecture;vaccines;jazz"
).split(";")
COMPANIES = "Acme Corp;Globex;Initech;Umbra Foods;Northwind;Vandelay;Blue Ridge Energy;Helio Motors;Stellar Labs;Pine Bank".split(";")
TEAMS = "Falcons;Harbor United;Red Lions;Mountain Bears;River City FC;Storm;Golden Eagles;Night Owls".split(";")
MATERIALS = "copper steel oak glass aluminium concrete silver rubber marble cotton".split()
EMAILS = "example.com mail.org office.net".split()


class Slot(NamedTuple):
    """A parameter: its names, its JSON type (and that of a list's items), what its description says, how a value is drawn as (value,
    spoken form), and the phrases it is asked for with. `{}` in a phrase is the spoken value, `{name}` the parameter's name in words."""

    names: tuple[str, ...]
    type: str
    descriptions: tuple[str, ...]
    draw: Callable[[Random], tuple[Any, str]]
    phrases: tuple[str, ...]
    items: str | None = None
    options: tuple[str, ...] = ()


def _one_of(words: list[str]) -> Callable[[Random], tuple[Any, str]]:
    def draw(random: Random) -> tuple[Any, str]:
        word = random.choice(words)
        return word, word

    return draw


def _some_of(words: list[str]) -> Callable[[Random], tuple[Any, str]]:
    def draw(random: Random) -> tuple[Any, str]:
        chosen = random.sample(words, random.randrange(2, 4))
        return chosen, ", ".join(chosen[:-1]) + " and " + chosen[-1]

    return draw


def _whole(low: int, high: int) -> Callable[[Random], tuple[Any, str]]:
    def draw(random: Random) -> tuple[Any, str]:
        value = random.randrange(low, high)
        if value < len(NUMBERS) and random.random() < 0.4:
            return value, NUMBERS[value]
        return value, f"{value:,}" if random.random() < 0.5 else str(value)

    return draw


def _decimal(top: float) -> Callable[[Random], tuple[Any, str]]:
    def draw(random: Random) -> tuple[Any, str]:
        value = round(random.random() * top + 0.1, random.choice([1, 1, 2]))
        return value, str(value)

    return draw


def _percent(random: Random) -> tuple[Any, str]:
    value = random.randrange(1, 100)
    return value / 100, f"{value}%"


def _numbers(random: Random) -> tuple[Any, str]:
    values = [random.randrange(100) for _ in range(random.randrange(3, 7))]
    return values, random.choice(["[{}]", "{}"]).format(", ".join(map(str, values)))


def _point(random: Random) -> tuple[Any, str]:
    values = [random.randrange(-20, 20), random.randrange(-20, 20)]
    return values, f"({values[0]}, {values[1]})"


def _date(random: Random) -> tuple[Any, str]:
    year, month, day = random.randrange(2015, 2030), random.randrange(1, 13), random.randrange(1, 29)
    name = MONTHS[month - 1]
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10 if day // 10 != 1 else 0, "th")
    spoken = (f"{name} {day}, {year}", f"{day} {name} {year}", f"{year}-{month:02d}-{day:02d}", f"{name} {day}{ending}, {year}")
    return f"{year}-{month:02d}-{day:02d}", random.choice(spoken)


def _time(random: Random) -> tuple[Any, str]:
    hour, minute = random.randrange(24), random.choice([0, 15, 30, 45])
    half = f"{hour % 12 or 12}:{minute:02d} {'AM' if hour < 12 else 'PM'}"
    return f"{hour:02d}:{minute:02d}", random.choice([half, f"{hour:02d}:{minute:02d}"])


def _person(random: Random) -> tuple[Any, str]:
    name = f"{random.choice(FIRST)} {random.choice(LAST)}"
    return name, name


def _email(random: Random) -> tuple[Any, str]:
    address = f"{random.choice(FIRST).lower()}.{random.choice(LAST).lower()}@{random.choice(EMAILS)}"
    return address, address


def _code(random: Random) -> tuple[Any, str]:
    code = "".join(random.choices("ABCDEFGHKLMNPRSTUVWXZ", k=2)) + random.choice(["-", ""]) + str(random.randrange(100, 99999))
    return code, code


def _currency(random: Random) -> tuple[Any, str]:
    return random.choice(CURRENCIES)


def text(names: str, words: list[str], description: str, *phrases: str) -> Slot:
    return Slot(tuple(names.split()), "string", (description,), _one_of(words), phrases)


def number(names: str, low: int, high: int, description: str, *phrases: str) -> Slot:
    return Slot(tuple(names.split()), "integer", (description,), _whole(low, high), phrases)


def real(names: str, top: float, description: str, *phrases: str) -> Slot:
    return Slot(tuple(names.split()), "float", (description,), _decimal(top), phrases)


def choice(names: str, options: str, description: str, *phrases: str) -> Slot:
    words = options.split()
    return Slot(tuple(names.split()), "string", (description,), _one_of(words), phrases, options=tuple(words))


def flag(name: str, description: str, yes: str, denied: str) -> Slot:
    def draw(random: Random) -> tuple[Any, str]:
        value = random.random() < 0.6
        return value, yes if value else denied

    return Slot((name,), "boolean", (description,), draw, ("{}",))


SLOTS: dict[str, Slot] = {
    "city": text("location city place", CITIES, "The city, e.g. {example}.", "in {}", "for {}", "around {}"),
    "origin": text("origin departure_city start from_city", CITIES, "City where the trip begins.", "from {}", "starting in {}"),
    "destination": text("destination arrival_city to_city target_city", CITIES, "City where the trip ends.", "to {}", "going to {}"),
    "country": text("country region nation", COUNTRIES, "Name of the country.", "in {}", "for {}"),
    "person": Slot(("name", "full_name", "customer_name", "client"), "string", ("Full name of the person.",), _person, ("for {}", "under the name {}")),
    "author": Slot(("author", "artist", "creator"), "string", ("Name of the creator.",), _person, ("by {}", "created by {}")),
    "recipient": Slot(("recipient", "to", "email_address"), "string", ("Email address to send to.",), _email, ("to {}", "addressed to {}")),
    "date": Slot(("date", "day", "start_date", "on_date"), "string", ("Date in the format YYYY-MM-DD.", "The date, YYYY-MM-DD."), _date, ("on {}", "for {}")),
    "until": Slot(("end_date", "deadline", "due_date", "until"), "string", ("Last date, in the format YYYY-MM-DD.",), _date, ("until {}", "by {}")),
    "time": Slot(("time", "start_time", "hour"), "string", ("Time in 24-hour format HH:MM.",), _time, ("at {}",)),
    "year": number("year", 1900, 2026, "The year as a whole number.", "in {}", "for the year {}"),
    "count": number("count quantity number_of_items amount", 2, 40, "How many are wanted.", "with a quantity of {}", "({} of them)"),
    "people": number("guests people party_size travelers", 1, 12, "Number of people.", "for {} people", "with a party of {}"),
    "days": number("days num_days duration_days", 1, 30, "Number of days.", "for {} days", "over the next {} days"),
    "minutes": number("minutes duration duration_minutes", 5, 180, "Duration in minutes.", "for {} minutes", "lasting {} minutes"),
    "limit": number("limit max_results top_n", 1, 25, "Most results to return.", "limited to {} results", "showing the top {}"),
    "age": number("age", 4, 95, "Age in years.", "aged {}", "who is {} years old"),
    "price": real("budget max_price price", 900, "Highest price.", "with a budget of {}", "costing at most {}"),
    "money": number("amount principal sum value", 100, 20000, "Amount of money.", "of {}", "with an amount of {}"),
    "rate": Slot(("rate", "interest_rate", "discount"), "float", ("Rate as a decimal, e.g. 0.05 for 5%.", "The rate as a fraction of 1."), _percent, ("at a rate of {}", "with a rate of {}")),
    "mass": real("mass weight weight_kg", 90, "Mass in kilograms.", "with a mass of {} kg", "weighing {} kilograms"),
    "speed": real("speed velocity initial_velocity", 60, "Speed in m/s.", "at a speed of {} m/s", "moving at {} meters per second"),
    "length": number("length distance height width radius base", 2, 300, "Length in meters.", "with a {name} of {} meters", "where the {name} is {}"),
    "side": number("side_a side first_side a", 1, 60, "Length of one side.", "with {name} {}", "whose {name} measures {}"),
    "temperature": number("temperature degrees temp", -10, 45, "Temperature in Celsius.", "at {} degrees", "with a temperature of {}"),
    "currency": Slot(("currency", "from_currency", "currency_code"), "string", ("Three-letter currency code.",), _currency, ("in {}",)),
    "new_currency": Slot(("to_currency", "target_currency"), "string", ("Three-letter code of the wanted currency.",), _currency, ("into {}", "to {}")),
    "language": text("language target_language", LANGUAGES, "Name of the language.", "in {}", "in the {} language"),
    "title": text("title name item", TITLES, "The title.", "titled {}", "called '{}'", "named \"{}\""),
    "product": text("product item product_name", PRODUCTS, "Name of the product.", "for a {}", "of the {}"),
    "food": text("dish food recipe_name", FOODS, "The dish.", "for {}", "of {}"),
    "animal": text("species animal", ANIMALS, "Name of the species.", "for the {}", "of the {}"),
    "subject": text("topic subject query keyword", SUBJECTS, "What it is about.", "about {}", "on {}"),
    "company": text("company company_name organisation", COMPANIES, "Name of the company.", "for {}", "of {}"),
    "team": text("team team_name club", TEAMS, "Name of the team.", "for the {}", "of the {}"),
    "material": text("material substance", MATERIALS, "The material.", "made of {}", "for {}"),
    "code": Slot(("order_id", "id", "reference", "account_number"), "string", ("Identifier, e.g. AB-1234.",), _code, ("with the number {}", "for {}", "with id {}")),
    "cities": Slot(("cities", "stops", "locations"), "array", ("List of cities.",), _some_of([c for c in CITIES if "," not in c]), ("for {}", "via {}"), "string"),
    "products": Slot(("items", "products", "ingredients"), "array", ("List of names.",), _some_of(PRODUCTS + FOODS), ("with {}", "containing {}"), "string"),
    "numbers": Slot(("values", "numbers", "data", "scores"), "array", ("List of whole numbers.",), _numbers, ("of {}", "for the numbers {}", "with {}"), "integer"),
    "point": Slot(("point", "point_a", "start_point", "coordinates"), "array", ("Coordinates [x, y].",), _point, ("from {}", "at {}"), "integer"),
    "point_b": Slot(("end_point", "point_b", "other"), "array", ("Coordinates [x, y] of the other point.",), _point, ("to {}", "and {}"), "integer"),
    "unit": choice("unit units system", "metric imperial", "Unit system.", "in {} units", "using {} units"),
    "scale": choice("scale unit", "celsius fahrenheit kelvin", "Temperature unit.", "in {}", "given in {}"),
    "priority": choice("priority level", "low medium high", "Priority.", "with {} priority", "marked as {} priority"),
    "color": choice("color colour", "red green blue black white", "The colour.", "in {}", "coloured {}"),
    "class": choice("travel_class cabin", "economy business first", "Travel class.", "in {} class", "flying {} class"),
    "format": choice("format file_type output", "pdf csv json xml", "Output format.", "as {}", "in {} format"),
    "size": choice("size", "small medium large", "Size.", "in size {}", "({} size)"),
    "period": choice("period interval frequency", "daily weekly monthly yearly", "How often.", "on a {} basis", "{}"),
    "genre": choice("genre category", "drama comedy thriller documentary jazz rock", "Genre.", "in the {} genre", "from the {} category"),
    "detailed": flag("detailed", "Whether to give details.", "with full details", "without details"),
    "round_trip": flag("round_trip", "Whether the trip goes back.", "as a round trip", "one way only"),
    "notify": flag("notify", "Whether to send a notification.", "and notify me", "without notifying me"),
    "vegan": flag("vegan", "Whether it must be vegan.", "that is vegan", "not necessarily vegan"),
}  # fmt: skip

# Topic: verbs, nouns (`kind of thing`, in words), the slots that are always there, and those that may be.
Topic = tuple[str, str, str, str]
TOPICS: list[Topic] = [
    ("find search look_up", "flights;plane tickets;air connections", "origin destination date", "class people round_trip price"),
    ("book reserve", "hotel room;guest house;holiday flat", "city date", "days people price person"),
    ("get check fetch", "weather;weather forecast;air humidity;rain forecast", "city", "days date unit"),
    ("find suggest get", "recipe;cooking instructions;meal idea", "food", "people vegan minutes"),
    ("calculate compute", "loan payment;compound interest;savings growth", "money rate", "days period year"),
    ("convert exchange", "money;currency amount", "money currency new_currency", "date"),
    ("schedule plan arrange", "meeting;call;interview;appointment", "date time", "person minutes notify subject"),
    ("send write", "email;message;invitation", "recipient subject", "priority date"),
    ("track locate check", "parcel;order;shipment", "code", "detailed notify"),
    ("order buy purchase", "product;article;store item", "product count", "color size price"),
    ("calculate determine compute", "kinetic energy;momentum;braking force", "mass speed", "unit"),
    ("calculate compute find", "area;perimeter;surface", "length side", "unit"),
    ("compute calculate", "mean;median;variance;standard deviation", "numbers", "detailed"),
    ("calculate measure", "distance;midpoint;slope of the line", "point point_b", "unit"),
    ("get look_up fetch", "stock price;company revenue;market value", "company", "date currency period"),
    ("find search list", "books;novels;articles", "subject", "author year limit language"),
    ("recommend find", "movies;series;concerts", "genre", "year limit city"),
    ("play queue", "song;album;playlist", "title", "author minutes"),
    ("get fetch check", "match results;league ranking;player statistics", "team", "year limit detailed"),
    ("get find", "population;average income;birth rate", "country", "year detailed"),
    ("look_up describe get", "habitat;conservation status;diet", "animal", "country detailed"),
    ("plan find compute", "route;driving directions;train connection", "origin destination", "time cities unit"),
    ("create open add", "task;reminder;ticket", "title", "until priority person"),
    ("translate summarise", "document;text;news story", "title language", "format"),
    ("reserve book find", "restaurant table;dinner;lunch", "city people", "date time food"),
    ("calculate estimate", "body mass index;calorie need;heart rate zone", "mass length age", "unit"),
    ("get read", "density;melting point;thermal conductivity", "material", "temperature scale"),
    ("export download generate", "report;invoice;bank statement", "code format", "date until"),
    ("rent hire", "car;bicycle;moving van", "city date days", "age price size"),
    ("find list search", "museums;parks;theatres;markets", "city", "limit price detailed"),
    ("look_up find", "court case;patent;law", "subject country", "year limit"),
    ("estimate calculate", "tax;insurance premium;pension", "money country", "age year rate"),
    ("compare check", "prices;ratings;offers", "products", "country limit"),
    ("set adjust", "thermostat;oven;heating", "temperature", "time scale minutes"),
    ("register sign_up enrol", "student;course participant;club member", "person subject", "date age"),
    ("calculate predict", "final price;sale price;mark-down", "price rate", "count currency"),
]  # fmt: skip
