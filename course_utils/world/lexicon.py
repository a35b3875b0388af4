"""The words of the world. Everything the documents say is made from these lists."""

FIRST_NAMES = (
    "Ada Boris Clara Dina Emil Freya Goran Hana Ivo Jana Karl Lena Milo Nora Oskar Petra Quinn "
    "Rosa Sven Tara Ulla Viktor Wanda Xenia Yara Zoran Alma Bruno Celia Dario Elsa Felix Greta "
    "Hugo Iris Jonas Kira Leo Maya Nils"
).split()
LAST_NAMES = (
    "Abel Brandt Costa Dahl Ekman Fabri Grant Holm Ivers Jensen Kovac Lind Moreno Novak Olsen "
    "Prado Quist Rossi Silva Tolen Ueda Varga Weber Xu Yilmaz Zanetti Arden Bell Conti Duran Engel "
    "Faber Gallo Haas Ilic Juhl Keller Lopez Marin Nagy"
).split()
CITIES = (
    "Arlon Bergen Cadiz Delft Evora Faro Ghent Hilo Izmir Jaca Kiel Lugo Malmo Nantes Oslo Porto "
    "Quito Riga Siena Turku Umea Vigo Wells York"
).split()
COUNTRIES = "Lutha Morvia Nelor Ostan Pelia Rudan Sorel Tavia".split()
JOBS = (
    "baker carpenter doctor mechanic farmer gardener judge lawyer miner nurse painter pilot "
    "plumber potter sailor singer tailor teacher waiter writer"
).split()
PETS = "cat dog duck fish fox goat horse hamster parrot rabbit snake turtle".split()
FOODS = (
    "bread cheese curry dumplings eggs figs honey mango noodles olives pasta "
    "pizza rice salad soup stew"
).split()
COLOURS = "red blue green yellow black white purple pink brown grey".split()

OBJECTS = ("lamp book key coin ball box cup hat map ring rope spoon bell brush clock drum").split()
PLACES = "kitchen garden hall attic cellar garage office library bedroom shed tower barn".split()
FRUITS = "apples pears plums nuts shells stones cards stamps".split()

SUBJECTS = "food service room music staff view film story coffee price".split()
POSITIVE = "good great lovely fresh warm friendly charming excellent".split()
NEGATIVE = "bad awful boring cold rude dirty noisy terrible".split()
DEGREES = ("", "very ", "really ", "quite ")
