"""Tables of English short forms: abbreviations, units, currencies, symbols.

In the texts of tables, entries are parted by ``;``, key and reading by ``=``, the forms of a reading by ``/``.
"""

from __future__ import annotations


def as_set(words: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(words.split())


def as_table(entries: str) -> dict[str, str]:
    """Readings by key."""
    pairs = (" ".join(entry.split()).partition("=") for entry in entries.split(";"))
    return {key: reading for key, _, reading in pairs}


def _forms(entries: str) -> dict[str, tuple[str, ...]]:
    return {key: tuple(value.split("/")) for key, value in as_table(entries).items()}


MONTHS = as_table("""
Jan=January; Feb=February; Mar=March; Apr=April; May=May; Jun=June; Jul=July; Aug=August; Sep=September;
Oct=October; Nov=November; Dec=December; Sept=September
""")
DAYS = as_table("""
Mon=Monday; Tue=Tuesday; Tues=Tuesday; Wed=Wednesday; Thu=Thursday; Thur=Thursday; Thurs=Thursday; Fri=Friday;
Sat=Saturday; Sun=Sunday
""")
MONTH_NAMES = frozenset(MONTHS.values())
DAY_NAMES = frozenset(DAYS.values())

TITLES = as_table("""
Mr=Mister; Mrs=Missus; Ms=Miss; Dr=Doctor; Prof=Professor; St=Saint; Mt=Mount; Sen=Senator; Gov=Governor; Gen=General;
Capt=Captain; Lt=Lieutenant; Col=Colonel; Sgt=Sergeant; Rev=Reverend; Pres=President; Hon=Honorable; Ft=Fort;
Rep=Representative; Maj=Major; Cpl=Corporal; Adm=Admiral; Cmdr=Commander; Drs=Doctors; Fr=Father; Pt=Point;
Atty=Attorney; Bro=Brother; Det=Detective; Pvt=Private; Sec=Secretary; Insp=Inspector; Amb=Ambassador;
Supt=Superintendent
""")
"""Before a name."""
PLACES = as_table("""
St=Street; Dr=Drive; Ave=Avenue; Av=Avenue; Blvd=Boulevard; Rd=Road; Ln=Lane; Hwy=Highway; Pl=Place; Sq=Square;
Ct=Court; Pkwy=Parkway; Pk=Park; Ter=Terrace; Cres=Crescent; Cir=Circle
""")
"""After a name."""
WORDS = as_table("""
e.g=for example; i.e=that is; etc=et cetera; vs=versus; approx=approximately; Inc=Incorporated; Ltd=Limited;
Corp=Corporation; Co=Company; Jr=Junior; Sr=Senior; dept=department; Dept=Department; est=established; min=minutes;
max=maximum; incl=including; misc=miscellaneous; tel=telephone; Tel=Telephone; Apt=Apartment; Univ=University;
Assn=Association; Bros=Brothers; cf=compare; ca=about; viz=namely; resp=respectively; temp=temperature; avg=average;
Jan=January; Feb=February; Apr=April; Aug=August; Sep=September; Sept=September; Oct=October; Nov=November;
Dec=December; Tues=Tuesday; Wed=Wednesday; Thur=Thursday; Thurs=Thursday; Fri=Friday; govt=government;
Intl=International; Natl=National; Govt=Government; Assoc=Association; Inst=Institute; feat=featuring; hr=hour;
hrs=hours; Esq=Esquire; apt=apartment; exec=executive; dir=director; asst=assistant; admin=administrative;
appt=appointment; appts=appointments; esp=especially; orig=original; ref=reference; tech=technical; pop=population
""")
"""Written with a period."""
BARE_WORDS = as_table("""
vs=versus; approx=approximately; b/c=because; attn=attention; Attn=Attention; lg=large; w/=with;
w/o=without; etc=et cetera; Jr=Junior; WWI=World War one; WWII=World War two; aka=A K A; btw=by the way; pls=please;
plz=please; thx=thanks; msg=message; msgs=messages; ppl=people; idk=I don't know; tbh=to be honest; bldg=building;
mgr=manager; mtg=meeting; qtr=quarter; qty=quantity; Qty=quantity; avg=average; Avg=average; std=standard;
wknd=weekend; Bldg=building; imo=in my opinion; Ave=Avenue; Blvd=Boulevard; Ltd=Limited; Dept=Department;
dept=department
""")
"""... and without one."""
SHORT_OR_WORDS = as_set("admin apt esp exec max pop ref tech temp")
"""Those that are words too: short only before a small letter or a figure."""
BEFORE_A_NUMBER = as_table("""
No=number; no=number; Nos=numbers; nos=numbers; Fig=figure; fig=figure; Vol=volume; vol=volume; p=page; pp=pages;
Ch=chapter; ch=chapter; Sec=section; sec=section; Art=article; Eq=equation; eq=equation; Nr=number; Rm=room; c=around;
ext=extension; Ext=extension; Op=opus; op=opus; Ste=suite; Fl=floor; Bldg=building; Rte=route; v=version; Apt=Apartment;
Amend=amendment; Pt=part; pt=part; Pts=parts; Secs=sections; secs=sections; Figs=figures; figs=figures; Chs=chapters;
chs=chapters; Vols=volumes; vols=volumes; Eqs=equations; eqs=equations; Arts=articles; Chap=chapter; chap=chapter;
Chaps=chapters; Para=paragraph; para=paragraph; Paras=paragraphs; paras=paragraphs; Bk=book
""")
"""With a period, before a number."""

SCALES = as_table("""
k=thousand; K=thousand; m=million; M=million; mn=million; mln=million; MM=million; b=billion; B=billion; bn=billion;
bln=billion; t=trillion; T=trillion; tn=trillion; trn=trillion
""")
"""After an amount of money."""
SCALE_WORDS = as_set("""
billion billions crore crores dozen hundred hundreds lakh lakhs million millions thousand thousands trillion trillions
""")

CURRENCIES = _forms("""
$=dollar/dollars/cent/cents; €=euro/euros/cent/cents; £=pound/pounds/penny/pence; ¥=yen/yen/sen/sen;
₹=rupee/rupees/paisa/paise; ₩=won/won/jeon/jeon; ₽=ruble/rubles/kopeck/kopecks; ₺=lira/lira/kurush/kurush;
₿=bitcoin/bitcoins//; ₫=dong/dong//; ₦=naira/naira/kobo/kobo; ₪=shekel/shekels/agora/agorot;
฿=baht/baht/satang/satang; ₴=hryvnia/hryvnias/kopeck/kopecks; ₱=peso/pesos/centavo/centavos
""")
"""One and many, one and many of its hundredth part."""
DOLLARS = as_table("""
US=U S; A=Australian; AU=Australian; C=Canadian; CA=Canadian; NZ=New Zealand; HK=Hong Kong; S=Singapore; R=
""")
"""Letters before a currency's sign."""
CURRENCY_CODES = _forms("""
Rs=rupee/rupees/paisa/paise; USD=U S dollar/U S dollars/cent/cents; EUR=euro/euros/cent/cents;
GBP=pound/pounds/penny/pence; JPY=yen/yen; CHF=Swiss franc/Swiss francs;
CAD=Canadian dollar/Canadian dollars; AUD=Australian dollar/Australian dollars; CNY=yuan/yuan; RMB=yuan/yuan;
INR=rupee/rupees; SEK=Swedish krona/Swedish kronor; BTC=bitcoin/bitcoins; NOK=Norwegian krone/Norwegian kroner;
DKK=Danish krone/Danish kroner; PLN=zloty/zlotys; KRW=won/won; MXN=Mexican peso/Mexican pesos
""")

UNITS = _forms("""
km=kilometer/kilometers; m=meter/meters; cm=centimeter/centimeters; mm=millimeter/millimeters; nm=nanometer/nanometers;
µm=micrometer/micrometers; mi=mile/miles; yd=yard/yards; yds=yard/yards; ft=foot/feet; kg=kilogram/kilograms;
g=gram/grams; mg=milligram/milligrams; µg=microgram/micrograms; lb=pound/pounds; lbs=pound/pounds; oz=ounce/ounces;
l=liter/liters; L=liter/liters; ml=milliliter/milliliters; mL=milliliter/milliliters; cl=centiliter/centiliters;
dl=deciliter/deciliters; gal=gallon/gallons; tsp=teaspoon/teaspoons; tbsp=tablespoon/tablespoons;
tsps=teaspoon/teaspoons; tbsps=tablespoon/tablespoons; tbs=tablespoon/tablespoons; s=second/seconds;
sec=second/seconds; secs=second/seconds; ms=millisecond/milliseconds; µs=microsecond/microseconds; min=minute/minutes;
mins=minute/minutes; h=hour/hours; hr=hour/hours; hrs=hour/hours; yr=year/years; yrs=year/years; Hz=hertz/hertz;
kHz=kilohertz/kilohertz; MHz=megahertz/megahertz; GHz=gigahertz/gigahertz; B=byte/bytes; kB=kilobyte/kilobytes;
KB=kilobyte/kilobytes; MB=megabyte/megabytes; GB=gigabyte/gigabytes; TB=terabyte/terabytes; PB=petabyte/petabytes;
MiB=mebibyte/mebibytes; GiB=gibibyte/gibibytes; Mbps=megabit per second/megabits per second; Gbps=gigabit per
second/gigabits per second; kbps=kilobit per second/kilobits per second; W=watt/watts; kW=kilowatt/kilowatts;
MW=megawatt/megawatts; GW=gigawatt/gigawatts; kWh=kilowatt hour/kilowatt hours; MWh=megawatt hour/megawatt hours;
V=volt/volts; kV=kilovolt/kilovolts; mA=milliampere/milliamperes; mAh=milliampere hour/milliampere hours; Ω=ohm/ohms;
J=joule/joules; kJ=kilojoule/kilojoules; cal=calorie/calories; kcal=kilocalorie/kilocalories; N=newton/newtons;
Pa=pascal/pascals; kPa=kilopascal/kilopascals; hPa=hectopascal/hectopascals; bar=bar/bars; psi=P S I/P S I;
dB=decibel/decibels; ha=hectare/hectares; px=pixel/pixels; pt=point/points; mph=mile per hour/miles per hour;
kph=kilometer per hour/kilometers per hour; kmh=kilometer per hour/kilometers per hour; mpg=mile per gallon/miles per
gallon; rpm=revolution per minute/revolutions per minute; bpm=beat per minute/beats per minute; fps=frame per
second/frames per second; dpi=dot per inch/dots per inch; ppm=part per million/parts per million;
hp=horsepower/horsepower; °C=degree Celsius/degrees Celsius; °F=degree Fahrenheit/degrees Fahrenheit; °=degree/degrees;
°N=degree north/degrees north; °S=degree south/degrees south; °E=degree east/degrees east; °W=degree west/degrees west;
mol=mole/moles; lm=lumen/lumens; lx=lux/lux; eV=electron volt/electron volts; keV=kiloelectron volt/kiloelectron volts;
MeV=megaelectron volt/megaelectron volts; kN=kilonewton/kilonewtons; MPa=megapascal/megapascals;
GPa=gigapascal/gigapascals; atm=atmosphere/atmospheres; qt=quart/quarts; mcg=microgram/micrograms; nmi=nautical
mile/nautical miles; kn=knot/knots; cc=cubic centimeter/cubic centimeters; µL=microliter/microliters;
Mbit=megabit/megabits; Gbit=gigabit/gigabits; ly=light year/light years; cu ft=cubic foot/cubic feet; cu in=cubic
inch/cubic inches; N·m=newton meter/newton meters; Nm=newton meter/newton meters; pts=point/points; pcs=piece/pieces;
GJ=gigajoule/gigajoules; MJ=megajoule/megajoules; mmHg=millimeter of mercury/millimeters of mercury; ft-lb=foot
pound/foot pounds; ft-lbs=foot pound/foot pounds; lb-ft=pound foot/pound feet; sqft=square foot/square feet; sqm=square
meter/square meters; A=amp/amps; K=kelvin/kelvins; in=inch/inches; "=inch/inches; ″=inch/inches; '=foot/feet;
′=foot/feet; ¢=cent/cents; sq ft=square foot/square feet; sq km=square kilometer/square kilometers; sq mi=square
mile/square miles; t=tonne/tonnes; Gt=gigatonne/gigatonnes; kt=knot/knots; kts=knot/knots; BPM=beat per minute/beats
per minute; RPM=revolution per minute/revolutions per minute; MPH=mile per hour/miles per hour; PSI=P S I/P S I;
FPS=frame per second/frames per second; MPG=mile per gallon/miles per gallon; dL=deciliter/deciliters; fl oz=fluid
ounce/fluid ounces; wk=week/weeks; wks=week/weeks; GWh=gigawatt hour/gigawatt hours; TWh=terawatt hour/terawatt hours;
kΩ=kilohm/kilohms; mV=millivolt/millivolts; kgs=kilogram/kilograms; mo=month/months; mos=month/months;
qts=quart/quarts; gals=gallon/gallons; mEq=milliequivalent/milliequivalents; mM=millimolar/millimolar;
µM=micromolar/micromolar; kms=kilometer/kilometers; cms=centimeter/centimeters; gms=gram/grams; bps=basis point/basis
points; Ah=ampere hour/ampere hours; mW=milliwatt/milliwatts; mmol=millimole/millimoles; µmol=micromole/micromoles;
nmol=nanomole/nanomoles; ng=nanogram/nanograms; pg=picogram/picograms; pkg=package/packages; pkgs=package/packages;
pkt=packet/packets; pkts=packet/packets
""")
"""One and many."""
ANY_CASE = {
    unit.lower(): UNITS[unit]
    for unit in as_set("""
km cm kg ml tsp tsps tbsp tbsps tbs oz lb lbs hrs min mins secs yd yds gal ft kWh
""")
}
"""Units that mean the same in capitals, by their small letters: "2 Tbsp", "5 LBS", "10 KM"."""
ELECTRIC = as_set("""
V W amp amps breaker charger current draws fuse output outputs rated volts watts
""")
"""Near them "2 A" is amps."""
BEFORE_AN_HOUR = as_set("around at before by departure departs from to until")
"""After them 0600 is a time of day."""
TIMED = as_set("bake chill cook duration eta prep rest runtime time total wait")
"""After them "15m" is minutes."""
QUANTITIES = as_set("""
acceleration area current depth diameter distance energy expressed force given height length mass measured power
pressure radius speed temperature thickness time velocity voltage volume weight width
""")
"""After them and "in" a letter is a unit: "your height in m"."""
LETTER_UNITS = as_set("""
m g s h l L V W N J K
""")
IMPERIAL = as_set("""
°F ft gal in lb lbs mi mph oz yd
""")
"""After a metric amount and a slash they say it again: "5kg/11lbs"."""
LENGTHS = as_set("""
km m cm mm µm nm mi yd ft in
""")
"""Their powers are areas and volumes: "per square meter", but "per second squared"."""
BARE_UNITS = as_set("""
km cm mm nm µm kg mg µg lb lbs oz ml mL tsp tbsp yd yds hrs mins secs kHz MHz GHz kB KB MB GB TB MiB GiB Mbps Gbps kW
mmol pcs pkg pkgs pkt pkts pts wks kWh MWh kV mAh kJ kcal kPa hPa dB mph kph kmh mpg rpm bpm °C °F mmHg
""")
"""Units that are no words: said in full without a number too."""
PER = as_table("""
h=hour; hr=hour; s=second; sec=second; min=minute; day=day; d=day; week=week; month=month; mo=month; year=year;
yr=year
""")
"""After a slash."""
AFTER_SECONDS = as_set("""
ahead apart away before behind early faster late later left long longer old shorter slower
""")
"""Before them "20s" is seconds."""
SIZES = as_set("""
across apart by deep diameter high long screen tall thick wide x
""")
"""After them "in" is inches."""

READ_AS_WORDS = as_set("""
DOS GAN GANS AIDS ASAP ASEAN BASIC CAPTCHA CERN COVID DARPA FIFA GIF IKEA INTERPOL JPEG LASER LEGO NAFTA NASA NASDAQ
NATO NIKE OPEC PIN POTUS RADAR RAM ROM SARS SCOTUS SCUBA SIM SIRI SWAT UEFA UNESCO UNICEF YAML ZIP JSON
""")
"""Acronyms that are spoken as words."""
SPELT = as_set("""
AARP ACLU ASPCA HIPAA IEEE NAACP NCAA UCLA UNHCR USAA USAID USDA IAEA EEOC OECD GPIO IUCN YMCA YWCA NYSE USAF AAAS
""")
"""... and those that look like words and are spelt."""
OF_COMPUTERS = as_set("""
company consultant consultants department departments director firm firms guy help industry infrastructure jobs manager
managers professional professionals project projects sector security services skills specialist staff support systems
team teams
""")
"""After them IT is information technology."""
SPELT_SMALL = as_set("""
api apis cpu cpus gpu gpus pc pcs tv tvs uri url urls
""")
"""Short forms that are spelt, written small."""
SAID_WITHOUT_VOWELS = as_set("""
brr brrr grr grrr hm hmm hmmm mhm mmm nth pfft phpht psst pst shh shhh tsk zzz
""")
"""Words of consonants alone that are no short forms."""
ONSETS = as_set("""
BL BR CH CL CR DR DW FL FR GH GL GN GR KN PH PHR PL PR PS QU RH SC SCH SCR SH SHR SK SL SM SN SP SPL SPR SQ ST STR SW
TH THR TR TW WH WR
""")
"""Several consonants that begin English words."""
CODAS = as_set("""
BS BT CH CK CKS CT CTS DD DGE DS DTH FF FFS FT FTH FTS GG GGS GH GHT GHTS GN GNS GS KS LB LCH LD LDS LF LFS LFTH LK LKS
LL LLS LM LMS LN LP LPH LPS LS LT LTH LTS LTZ MB MBS MN MP MPH MPS MPT MS ND NDS NG NGS NGTH NGTHS NK NKS NN NS NT NTH
NTHS NTS PH PHS PS PT PTH PTS RB RBS RCH RD RDS RF RFS RK RKS RL RLD RLDS RLS RM RMS RMTH RN RNS RP RPS RR RS RSH RST
RT RTH RTHS RTS RTZ RV SH SHT SK SKS SM SMS SP SS ST STS TCH TH THS TS TT TTS TZ WD WDS WK WKS WL WLS WN WNS WS XT XTH
XTHS XTS ZZ
""")
"""Several that end them."""
SHOUTED = as_set("""
AGO ALL AM AN AND ANY ARE AS ASK AT BAD BE BED BIG BOX BOY BUT BUY BY CAN CAR CUT DAY DID DIE DO DOG DON'T EAT END
EVER EYE FAR FEW FOR FUN GET GO GOD GOT GUN GUY HAD HAS HE HER HEY HI HIM HIS HIT HOT HOW IF IN IS IT JOB JOY KEY KID
LAW LET LIE LOT LOW MAD MAN MAY ME MEN MOM MY NEW NO NOR NOT NOW ODD OF OFF OH OLD ON ONE OR OUR OUT OWN PAY PUT RED
RUN SAD SAY SEA SEE SET SHE SHY SIT SIX SKY SO SON SUN TAX TEN THE TO TOO TOP TRY TWO UP USE VIA WAR WAS WAY WE WET
WHY WIN WON WOW YES YET YOU
""")
"""Short words that are words even where all is written in capitals."""
NUMBERED = as_set("""
act apollo appendix article auto book bowl chapter civilization class diablo doom duty effect episode evil fallout
fantasy figure godfather grade halo kombat level line mark number page pages part phase quake quest rambo rocky room
saturn saw scene season section souls stage starcraft step table terminator title type unit volume war warcraft wars
""")
"""After them a Roman numeral is a number, not a place in an order."""
NUMBERED_THINGS = as_set("""
apartment apt block box building bus exit figure flat floor form gate highway line lot page pier platform room route
row seat section stand step suite table terminal track unit
""")
"""After them a letter at a number is a letter: exit 12B, seat 4L."""
SPELT_AFTER = as_set("""
account agent code extension id isbn number passcode password phone pin serial zip
""")
"""After them a long number is said digit by digit."""
CODES = as_set("""
code extension passcode password pin zip
""")
"""... and three digits too."""
STATES = as_table("""
AK=Alaska; AL=Alabama; AR=Arkansas; AZ=Arizona; CA=California; CO=Colorado; CT=Connecticut; DC=D C; DE=Delaware;
FL=Florida; GA=Georgia; HI=Hawaii; IA=Iowa; ID=Idaho; IL=Illinois; IN=Indiana; KS=Kansas; KY=Kentucky; LA=Louisiana;
MA=Massachusetts; MD=Maryland; ME=Maine; MI=Michigan; MN=Minnesota; MO=Missouri; MS=Mississippi; MT=Montana;
NC=North Carolina; ND=North Dakota; NE=Nebraska; NH=New Hampshire; NJ=New Jersey; NM=New Mexico; NV=Nevada;
NY=New York; OH=Ohio; OK=Oklahoma; OR=Oregon; PA=Pennsylvania; RI=Rhode Island; SC=South Carolina; SD=South Dakota;
TN=Tennessee; TX=Texas; UT=Utah; VA=Virginia; VT=Vermont; WA=Washington; WI=Wisconsin; WV=West Virginia; WY=Wyoming
""")
"""Postal codes of states: after them five digits are a zip code."""
NEVER_COUNTING = as_set("""
apartment channel error flight http status studio suite
""")
"""After them the number counts nothing: "error 404 means"."""
NAMED_BY_NUMBER = as_set("""
airbus apartment area boeing building form rfc bus cessna channel error flight gt gtx highway http interstate ferrari
porsche peugeot room route rtx rx ryzen status studio suite xbox
""")
"""After them three or four digits are a name, said in two parts: Boeing 747, error 404, flight 2451."""
VERSIONED = as_set("""
android chrome cuda django fedora firefox gcc go ios ipados java kernel kotlin kubernetes linux macos mysql node node.js
numpy pandas perl php postgres postgresql python pytorch rails react release ruby rust scala swift tensorflow
typescript ubuntu v version versions vue windows
""")
"""After them the part behind a point is a number of its own: Python 3.12."""
PRE_RELEASES = as_table("""
alpha=alpha; beta=beta; rc=R C; a=A; b=B; dev=dev; post=post; pre=pre; preview=preview; canary=canary; lts=L T S
""")
"""Behind a version."""
EMERGENCY_NUMBERS = as_set("000 111 112 911 988 999")
CALLS = as_set(
    "call caller callers calls center centers dispatch dispatcher dispatchers hotline lifeline operator operators"
)
"""After 911."""
NAMED_AFTER_NUMBER = as_set("airliner error freeway highway interstate")
"""Before them three digits are a name: "a 404 error", "the 405 freeway"."""
HTTP = as_table("""
200=OK; 201=Created; 204=No; 301=Moved; 302=Found; 304=Not; 400=Bad; 401=Unauthorized; 403=Forbidden; 404=Not;
405=Method; 408=Request; 409=Conflict; 410=Gone; 418=I'm; 422=Unprocessable; 429=Too; 500=Internal; 501=Not; 502=Bad;
503=Service; 504=Gateway
""")
"""Codes of servers and the word that their name begins with."""
HOTLINES = as_set("emergency helpline hotline lifeline line")
"""Near them three digits are a number to call."""
DESCRIBED_BY_AMOUNT = as_set("""
adapter bag bags batteries battery bill bills bottle bottles bulb bulbs cans charger chargers charging capsule capsules
coin coins container containers gusts winds drive drives dumbbell dumbbells engine jar jars lens lenses motor note
notes pack packs stamp stamps storage tablet tablets
""")
"""Before them an amount is in the singular: "two $20 bills"."""
BOOKS_OF_THE_BIBLE = as_set("""
Acts Amos Chronicles Colossians Corinthians Daniel Deuteronomy Ecclesiastes Ephesians Esther Exodus Ezekiel Ezra
Galatians Genesis Habakkuk Haggai Hebrews Hosea Isaiah James Jeremiah Job Joel John Jonah Joshua Jude Judges Kings
Lamentations Leviticus Luke Malachi Mark Matthew Micah Nahum Nehemiah Numbers Obadiah Peter Philemon Philippians
Proverbs Psalm Psalms Revelation Romans Ruth Samuel Thessalonians Timothy Titus Zechariah Zephaniah
""")
"""After them 5:9 is chapter and verse."""
RACES = as_set("display monitor race resolution run screen tv video")
"""Before them "10K" keeps its letter."""
TURNED = as_set("angle arc bend corner rotation turn view")
"""Before them degrees describe: "a 90 degree angle"."""
COUNTED_OUT = as_set("""
dentists doctors patients people points questions stars students teams times users votes
""")
"""Before them 4/5 is four out of five."""
LINKS = as_set("""
are at back be changed from is it isn't me my not now on or of the then to us was your
""")
"""They may stand between "PIN" and its digits."""
DIALLED_AFTER = as_set("""
call called calling contact dial dialed dialing phone ring text
""")
"""After them three digits are."""
YEAR_AFTER = as_set("""
after and around autumn before between by class during early fall from in late mid of since spring summer through
till to until winter year
""")
"""After them four digits are a year."""
COUNTED = as_set("""
billion children different feet fish hundred large men million more new other people percent sheep small thousand
women
""")
"""Before them four digits are none."""
DETERMINERS = as_set("""
a an another each her his its my no one our that the their this your
""")
"""Before an amount they show that it describes: "its $3M portfolio"; so does an owner, "Ann's"."""
NO_OWNERS = as_set("""
he's here's how's it's let's she's that's there's what's where's who's
""")
"""They end like an owner and own nothing: "it's $5 more"."""
PRAISING = as_set("""
additional annual big brand-new cool extra final flat free full fresh generous giant hefty huge initial large latest
massive measly mere modest monthly new nice one-time proposed record separate single small staggering stunning total
whole whopping
""")
"""Between "a" and an amount that describes: "a record ten dollar fine"."""
NO_THINGS = as_set("""
across afterwards always apiece back buys came come comes contains costs covers does each earns equals gets gives go
goes has helped helps indoors instead keeps lasts less looks makes means minus more needs outdoors overseas paid pays
perhaps plus produces provides remains requires runs saves seems short sometimes sounds stays takes thus total towards
upwards versus weighs went works worth yields
""")
"""Words after an amount that do not name what it describes: "the $5 went to him", "$20 covers lunch"."""
OF_SCORES = as_set("beat beats beaten draw drew final lead led leads lose loses lost score tied win wins won")
"""Before 3-1 they show that it is the score of one game."""
FUNCTION_WORDS = as_set("""
a about after again an and are as at away be because been before but by can could down each for from had has have he
here i'm if in into is it left less may might more not now of off on or out over per she since so than that the then
there they this to today tomorrow tonight under until up was we were when while will with would yesterday you
""")
"""Before them an amount stands alone; before a noun after "a" it describes: "a ten dollar bill"."""

REGENTS = as_set("""
Albert Alexander Alfonso Benedict Boniface Carlos Catherine Charles Christian Clement Conrad Constantine Darius Edward
Elizabeth Felipe Ferdinand Francis Frederick George Gregory Gustav Haakon Harald Henry Innocent Ivan James John Juan
Julius Justinian Leo Leopold Louis Ludwig Margrethe Mary Maximilian Napoleon Nicholas Olaf Otto Paul Peter Philip Pius
Ptolemy Ramesses Richard Rudolf Sixtus Theodosius Umberto Urban Victor Wilhelm William Xerxes
""")
"""After these names V and X are places in an order, and I where it is no pronoun."""
AFTER_FIRST_OF_NAME = as_set("""
and became died founded in of reigned ruled was
""")
"""Words after "Elizabeth I" that show that I is no pronoun."""
AFTER_PRONOUN = as_set("""
also always am believe can can't cannot could did didn't do don't have just know like love mean need remember really
saw see should suppose think trust understand want will won't would
""")
"""Words after "Charles I" at the start of a sentence that show that it is one."""
ARTICLES = as_set("""
a an its our that the their this
""")
HELD_IN_ORDER = as_set("""
amendment century congress corps cruiserweight dynasty edition legion millennium olympiad olympics republic session
""")
"""After "the IV" they show that a numeral is a place in an order."""
CLOTHES = as_set("""
L M S XL XS XXL XXS XXXL
""")
"""Sizes: "S-XL" is a span of them."""
BEFORE_A_DAY = as_set("by due on until")
"""After them 3/4 is a day of a month."""
BEFORE_A_DATE = as_set("""
by closed early every from in last late mid next on since this through till to until
""")
"""After them "Mar." and "Sun." are short for a month and a day."""
CHANGES = as_set("""
cut decreased down drop dropped fall fallen fell grew grow increase increased lower lowered reduce reduced rise rose
shrank up
""")
"""After "fell by" a fraction is no date."""
BEFORE_A_DURATION = as_set("by clocked in is lasted lasts of ran runs to took was")
"""After them "59:40" is minutes and seconds."""
RATIOS = as_set("""
concentration dilute diluted dilution gear leverage mix mixed odds proportion proportions ratio ratios scale slope
""")
"""After them "1:10" is no time of day."""
MARKS = as_set("""
achieved earned gave get gets got grade mark rate rated rating score scored scores
""")
"""After them 9/10 is nine out of ten."""
RULERS = as_set("""
Czar Emperor Empress Kaiser King Pope Prince Princess Queen Tsar Tsarina
""")
"""After them, "Charles I" is a name wherever it stands."""
BEFORE_A_COMPARISON = as_set("""
are be for has have is need needs of require requires was were with
""")
"""After them a comparison has no verb of its own: "is 7 greater than 5"."""
CLAUSES = as_set("""
and because but if or since so that then when whenever where while
""")
"""After them a clause begins, whose comparison needs a verb: "if x is less than y"."""

COMPASS = as_table("""
N=north; S=south; E=east; W=west; NE=northeast; NW=northwest; SE=southeast; SW=southwest
""")
HALF_LANDS = as_set("""
Africa African America American Asia Bank Carolina Coast Dakota Germany Ireland Korea Korean Koreans London Sudan Sussex
Timor Virginia Yorkshire
""")
"""After N., S., E. or W. they are a part of a land: "N. Korea"."""
BEFORE_A_STREET = as_set("Along At Follow From Head Near On Past Take Toward Towards Via")
"""Words with a capital that are no names: "Take E. Pine St."."""
KEYS = as_table("""
Ctrl=control; ctrl=control; CTRL=control; Cmd=command; cmd=command; CMD=command; Esc=escape; ESC=escape; PgUp=page up;
PgDn=page down
""")
"""What is printed on a key, and how it is called."""
SHORT_KEYS = as_table("""
Del=delete; DEL=delete; Ins=insert; Opt=option; Fn=function; PrtSc=print screen
""")
"""... those that mean it after "press" and beside other keys only."""
WHOLE_KEYS = as_set("""
Alt Backspace Click Command Control Delete Down End Enter Escape Home Insert Left Option Return Right Shift Space Tab Up
Win click
""")
"""Names of keys that are words."""

ADDRESS_WORDS = as_table("""
src=source; tmp=temp; txt=text; img=image; pkg=package; cfg=config
""")
"""Words in addresses that are not said letter by letter."""
DOMAINS = as_set("ai au ca de eu io uk us")
"""Ends of addresses that are."""
FILE_ENDINGS = as_set("""
apk avi bak bib cfg conf cpp cs css csv dll dmg doc docx epub exe flac gif go gz heic html ini ipynb iso jar java
jpeg jpg js json jsx kt lock log m4a md mkv mov mp3 mp4 odt ogg pdf php png pptx psd py rb rs rtf sh sql svg swift tar
tex toml ts tsx txt wav webm webp xls xlsx xml yaml yml zip
""")
"""After a point they end the name of a file."""
ELEMENTS = as_table("""
H=hydrogen; He=helium; Li=lithium; Be=beryllium; B=boron; C=carbon; N=nitrogen; O=oxygen; F=fluorine; Ne=neon;
Na=sodium; Mg=magnesium; Al=aluminum/aluminium; Si=silicon; P=phosphorus; S=sulfur/sulphur; Cl=chlorine; Ar=argon;
K=potassium; Ca=calcium; Sc=scandium; Ti=titanium; V=vanadium; Cr=chromium; Mn=manganese; Fe=iron; Co=cobalt;
Ni=nickel; Cu=copper; Zn=zinc; Ga=gallium; Ge=germanium; As=arsenic; Se=selenium; Br=bromine; Kr=krypton; Rb=rubidium;
Sr=strontium; Y=yttrium; Zr=zirconium; Nb=niobium; Mo=molybdenum; Tc=technetium; Ru=ruthenium; Rh=rhodium;
Pd=palladium; Ag=silver; Cd=cadmium; In=indium; Sn=tin; Sb=antimony; Te=tellurium; I=iodine; Xe=xenon;
Cs=cesium/caesium; Ba=barium; La=lanthanum; Ce=cerium; Pr=praseodymium; Nd=neodymium; Pm=promethium; Sm=samarium;
Eu=europium; Gd=gadolinium; Tb=terbium; Dy=dysprosium; Ho=holmium; Er=erbium; Tm=thulium; Yb=ytterbium; Lu=lutetium;
Hf=hafnium; Ta=tantalum; W=tungsten; Re=rhenium; Os=osmium; Ir=iridium; Pt=platinum; Au=gold; Hg=mercury; Tl=thallium;
Pb=lead; Bi=bismuth; Po=polonium; At=astatine; Rn=radon; Fr=francium; Ra=radium; Ac=actinium; Th=thorium;
Pa=protactinium; U=uranium; Np=neptunium; Pu=plutonium; Am=americium; Cm=curium; Bk=berkelium; Cf=californium;
Es=einsteinium; Fm=fermium; Md=mendelevium; No=nobelium; Lr=lawrencium; Rf=rutherfordium; Db=dubnium; Sg=seaborgium;
Bh=bohrium; Hs=hassium; Mt=meitnerium; Ds=darmstadtium; Rg=roentgenium; Cn=copernicium; Nh=nihonium; Fl=flerovium;
Mc=moscovium; Lv=livermorium; Ts=tennessine; Og=oganesson
""")
"""Names of chemical elements by symbol. Source: IUPAC, https://iupac.org/what-we-do/periodic-table-of-elements/"""
SYMBOLS_ONLY = as_set("Br Cd Cl Cr Hg Kr Mg Mn Pb Pd Pt Rb Rn Sn Tc Tl Zn Zr")
"""Symbols that mean nothing else."""
SYMBOLS_AND_WORDS = as_set("Al Am As At Be Co Es Fl He Ho In La Li Md Mo Mt No Os Pa Po Ra Re Sr Ta")
"""Symbols that are words, names or short forms too: the words after them are not waited for."""
NO_FORMULAS = as_set("HeLa LiPo NaN")
"""Cells, batteries and a value, made of symbols."""
