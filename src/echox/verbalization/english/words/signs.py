"""Tables of signs and how they are said in English: operators, marks, Greek letters, LaTeX."""

from __future__ import annotations

from echox.verbalization.english.words.tables import as_set, as_table

OPERATORS = {
    "+": "plus",
    "−": "minus",
    "=": "equals",
    "×": "times",
    "∗": "times",
    "·": "times",
    "÷": "divided by",
    "∕": "over",
    "<": "is less than",
    ">": "is greater than",
    "≤": "is less than or equal to",
    "≥": "is greater than or equal to",
    "≈": "is about",
    "≠": "is not",
    "±": "plus or minus",
    "^": "to the power of",
    "*": "times",
    "/": "divided by",
    "∞": "infinity",
    "√": "the square root of",
    "∛": "the cube root of",
    "∑": "the sum of",
    "∫": "the integral of",
    "==": "equals",
    "!=": "is not",
    "<=": "is less than or equal to",
    ">=": "is greater than or equal to",
    "∈": "is in",
    "∉": "is not in",
    "∩": "intersection",
    "∪": "union",
    "⊂": "is a subset of",
    "⊆": "is a subset of",
    "≡": "is equivalent to",
    "≅": "is congruent to",
    "∝": "is proportional to",
    "⊥": "is perpendicular to",
    "∥": "is parallel to",
    "⇔": "if and only if",
    "↔": "to and from",
    "⇌": "to and from",
    "→": "to",
    "->": "to",
    "-->": "to",
    "<-": "from",
    "=>": "so",
    "==>": "so",
    "⇒": "so",
}
SIGNS = {
    "-": "minus",
    "−": "minus",
    "+": "plus",
    "±": "plus or minus",
    "~": "about",
    "≈": "about",
    "<": "less than",
    ">": "more than",
    "≤": "at most",
    "≥": "at least",
}
"""Right before a number."""
SYMBOLS = {
    "&": "and",
    "@": "at",
    "%": "percent",
    "‰": "per mille",
    "#": "number",
    "№": "number",
    "§": "section",
    "¶": "paragraph",
    "~": "about",
    "°": "degrees",
    "©": "copyright",
    "®": "",
    "™": "",
    "µ": "micro",
    "∠": "angle",
    "∆": "delta",
    "∂": "partial",
    "∇": "del",
    "∅": "the empty set",
    "∀": "for all",
    "∃": "there exists",
    "∴": "therefore",
    "♭": "flat",
    "♯": "sharp",
    "♮": "natural",
    "↑": "up",
    "↓": "down",
    "←": "",
    "⌘": "command",
    **OPERATORS,
}
SIGN_NAMES = {
    ";": "semicolon",
    ":": "colon",
    ",": "comma",
    ".": "period",
    "!": "exclamation mark",
    "?": "question mark",
    "/": "slash",
    "\\": "backslash",
    "#": "hash",
    "*": "asterisk",
    "&": "ampersand",
    "@": "at sign",
    "%": "percent sign",
    "_": "underscore",
    "-": "hyphen",
    "–": "en dash",
    "—": "em dash",
    "+": "plus sign",
    "=": "equals sign",
    "==": "double equals",
    "<": "less than sign",
    ">": "greater than sign",
    "|": "vertical bar",
    "~": "tilde",
    "^": "caret",
    "`": "backtick",
    "'": "apostrophe",
    '"': "quotation mark",
    "$": "dollar sign",
    "€": "euro sign",
    "£": "pound sign",
    "°": "degree sign",
    "©": "copyright sign",
    "®": "registered trademark",
    "™": "trademark",
    "(": "opening parenthesis",
    ")": "closing parenthesis",
    "()": "parentheses",
    "[": "opening bracket",
    "]": "closing bracket",
    "[]": "brackets",
    "{": "opening brace",
    "}": "closing brace",
    "{}": "braces",
}
"""How signs are called where a text speaks about them."""
TYPED_SIGNS = frozenset("#*_@/\\^~|;")
"""Signs that are named after "press", and after "a"."""
SIGN_NOUNS = as_set("""
button character characters key keys mark operator sign signs symbol symbols
""")
"""After "the &" they show that the text speaks about the sign."""
WEB_MARKS = {
    ".": "dot",
    "@": "at",
    "/": "slash",
    "\\": "backslash",
    "-": "dash",
    "_": "underscore",
    ":": "colon",
    "+": "plus",
    "?": "question mark",
    "=": "equals",
    "&": "and",
    "#": "hash",
    "%": "percent",
    "~": "tilde",
}
HEARTS = as_set("❤ ❤️ ♥ ♥️ 💕 💖 💗 <3")
WHO_LOVES = as_set("i we you they people dogs cats kids")
"""Before a heart that stands for a verb: "I ❤️ New York"."""
LATEX = as_table("""
times=×; cdot=·; div=÷; pm=±; leq=≤; le=≤; geq=≥; ge=≥; neq=≠; ne=≠; approx=≈; sim=~; equiv=≡; cong=≅; propto=∝;
infty=∞; to=→;
rightarrow=→; Rightarrow=⇒; implies=⇒; iff=⇔; sum=∑; int=∫; sqrt=√; in=∈; notin=∉; cap=∩; cup=∪; subset=⊂;
partial=∂; nabla=∇; forall=∀; exists=∃; therefore=∴; angle=∠; perp=⊥; parallel=∥; circ=°; degree=°; ldots=...; dots=...;
cdots=...; alpha=α; beta=β; gamma=γ; delta=δ; epsilon=ε; theta=θ; lambda=λ; mu=μ; pi=π; rho=ρ; sigma=σ; tau=τ; phi=φ;
omega=ω; Delta=Δ; Sigma=Σ; Omega=Ω; sin=sin; cos=cos; tan=tan; log=log; ln=ln; lim=lim; max=max; min=min
""")
"""Commands of LaTeX, and the sign that they write."""
LATEX_FORMS = as_set("""
left right big Big bigg quad qquad frac dfrac tfrac text textbf mathrm mathbf mathbb operatorname boxed overline vec hat
begin end
""")
"""... and those that write nothing of their own."""
FUNCTIONS = as_table("""
sin=sine; cos=cosine; tan=tangent; log=log; ln=natural log; sqrt=square root; exp=exponential; gcd=G C D; max=max;
min=min; arcsin=arc sine; arccos=arc cosine; arctan=arc tangent
""")
"""Functions, before their argument in parentheses."""
GREEK = as_table("""
α=alpha; β=beta; γ=gamma; δ=delta; ε=epsilon; ζ=zeta; η=eta; θ=theta; ι=iota; κ=kappa; λ=lambda; μ=mu; ν=nu; ξ=xi;
ο=omicron; π=pi; ρ=rho; σ=sigma; ς=sigma; τ=tau; υ=upsilon; φ=phi; χ=chi; ψ=psi; ω=omega; Δ=delta; Σ=sigma; Ω=omega
""")
POWERS = as_table("""
²=squared; ³=cubed
""")

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
