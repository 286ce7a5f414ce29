"""Words of chest radiograph reports: what names a finding, where it is, how much of it, and how sure the writer was.

All patterns are matched on lower-case text. Written from scratch for this reader; nothing is taken from a corpus.
"""

from __future__ import annotations

import re

# Blanked out before anything is read: words that look like a finding, a place or a denial and are none.
NOT_MEANT = re.compile(
    r"\b(?:"
    r"(?:subcutaneous|soft tissue|chest wall|mediastinal|interstitial) emphysema"
    r"|(?:pericardial|joint|subdeltoid) effusions?"
    r"|(?:bon[ey]|osseous|mineral|bone mineral|breast) (?:density|densities|opacity|opacities|mass)"
    r"|(?:subcutaneous|soft tissue|chest wall|peripheral|leg) edema"
    r"|(?:left|right) (?:atri\w+|ventric\w+|heart border|main pulmonary artery|arm|shoulder|humer\w+|axill\w+|neck"
    r"|breast|mastectomy|upper quadrant|brachiocephalic|innominate)"
    r"|(?:upper|lower|mid|middle) (?:abdomen|thoracic|lumbar|cervical|spine|svc|superior vena cava|neck|extremity)"
    r"|upper limits? of (?=normal)|high normal"
    r"|right-to-left|left-to-right|large bore|small bowel|cardiac apex|apex of the heart|body mass|nipple shadows?"
    r"|(?:no|without|not)(?: any)?(?: \w+)? (?:interval )?changed?\b(?: in| of| from)?|not only|no comparison\w*"
    r"|no (?:prior|previous)(?: \w+)?|no (?=longer )"
    r"|vertebral collapse|collapse of the (?:vertebra\w*|\w+ vertebra\w*)|portal venous|port of|mass effect"
    r")\b"
)

# Whole statements that deny a finding without naming it. Between subject and predicate nothing abnormal may stand.
_CALM = (
    r"(?:(?!\b(?:enlarg|cardiomegal|promin|abnormal|borderline|upper|effusion|pneumoth|opaci|consolid|atelec|edema"
    r"|congest|increase|tortuous|cannot|obscure|difficult|clear\b|nodul|mass\b|but\b|however))[^;]){0,90}?"
)
_FINE = r"(?:normal|unremarkable|within (?:normal )?limits|non-?enlarged|not (?:\w+ )?enlarged)\b(?! variant)"
STATEMENTS: tuple[tuple[str, re.Pattern], ...] = (
    (
        "cardiomegaly",
        re.compile(
            rf"\b(?:heart|cardiac|cardiomediastinal|cardio mediastinal|cardiopericardial)\b{_CALM}\b{_FINE}"
            r"|\b(?:normal|unremarkable)(?: \w+){0,3}? (?:heart|cardiac|cardiomediastinal)\b(?: \w+)?"
        ),
    ),
    (
        "opacity",
        re.compile(
            r"\b(?:lungs?|lung fields|lung zones|hemithorax)\b(?:(?!\b(?:opaci|but\b|however|effusion|nodul|costo"
            r"|free\b"
            r"))[^;,.]){0,50}?\b(?:clear\b(?! of)|unremarkable|normally aerated)"
            r"|\bclear(?:,? \w+){0,2} lungs?\b|\blungs?,? [^;.]{0,40}?(?<!well )\bclear\b(?! of)"
        ),
    ),
    (
        "pleural effusion",
        re.compile(
            r"\bcostophrenic (?:angles?|sulci|sulcus|recess\w*)(?: \w+){0,4}? (?:sharp|clear|preserved)\b"
            r"|\bsharp costophrenic (?:angles?|sulci)\b|\bpleural (?:spaces?|surfaces?)(?: \w+){0,3}? (?:clear"
            r"|normal)\b"
        ),
    ),
)

# What names a finding; the first that fits at a place is taken. `None`: something that is not drawn, but takes the
# words of place and size that stand with it.
TERMS: tuple[tuple[str | None, str], ...] = (
    ("pneumothorax", r"(?:hydro|tension )?pneumothora(?:x|xes|ces|cies)|pleural air(?: collections?)?"),
    (None, r"pneumoperitoneum|pneumomediastinum|free (?:\w+ )?air|(?:calcified )?granulomas?|granulomatous"),
    (
        None,
        r"scar(?:s|ring|red)?|fibrosis|fibrotic|hernias?|pleural thickening|pleural plaques?|calcifi\w+|clips?"
        r"|sternotomy"
        r"|scoliosis|spondylosis|osteophytes?|degenerative|(?:hemi)?diaphragms?|aort\w+|adenopathy|lymph nodes?"
        r"|lymphadenopathy|rotat\w+|tortuos\w+|chest tubes?|pigtail|thoracostomy|lung volumes?|volumes|stents?",
    ),
    (
        "pleural effusion",
        r"(?:pleural |parapneumonic |subpulmonic )?(?:effusions?|effusion)|pleural fluid|hydrothorax",
    ),
    ("edema", r"(?:pulmonary |interstitial |alveolar |airspace |cardiogenic |vascular )*?edema"),
    (
        "edema",
        r"(?:pulmonary |central |venous |vascular |pulmonary vascular |pulmonary venous )+congestion"
        r"|(?:congestive )?heart failure|\bchf|(?:fluid|volume) overload|cardiac decompensation"
        r"|(?:pulmonary |central )*(?:vascular(?:ity)?|venous) (?:engorgement|prominence|hypertension)"
        r"|(?:prominent|prominence of|engorged)(?: the)? (?:central |pulmonary )*(?:vasculature|vascularity|vessels)"
        r"|pulmonary \w+ (?:is|are|remain) engorged",
    ),
    ("nodule", r"(?:nodules?|nodular (?:opacit(?:y|ies)|densit(?:y|ies)|focus|foci|lesions?)|nodularity|coin lesion)"),
    (
        "mass",
        r"(?:mass(?:es)?|mass-?like (?:\w+ )?(?:opacity|density|lesion|consolidation)|malignancy|neoplasm|tumou?r)",
    ),
    (
        "consolidation",
        r"(?:airspace |air space |air-space |alveolar |lobar |parenchymal )*consolidat(?:ions?|ive|ed)"
        r"(?: (?:opacit(?:y|ies)|changes?|process|airspace disease))?",
    ),
    ("pneumonia", r"(?:broncho)?pneumonias?|pneumonic (?:infiltrates?|process)|infectious (?:process|infiltrates?)"),
    (
        "atelectasis",
        r"(?:atelecta(?:sis|ses|tic)(?: changes?| opacit(?:y|ies)| density)?|(?:lobar |lung |lobe )collapse"
        r"|collapse of the (?:\w+ ){1,5}lobes?|collapsed (?:\w+ ){0,3}lobe)",
    ),
    (
        "opacity",
        r"(?:airspace |air space |air-space |alveolar |interstitial |parenchymal |pulmonary |reticular |linear "
        r"|hazy )*"
        r"(?:opacit(?:y|ies)|opacifi(?:cations?|ed)|infiltrat(?:es?|ions?)|densit(?:y|ies)|haziness"
        r"|(?:airspace|air space|air-space|alveolar) (?:disease|process)|infiltrative process)",
    ),
    ("cardiomegaly", r"cardiomegaly|cardiac enlargement|heart is (?:\w+ )?large|(?<=borderline )heart size"),
    (
        "cardiomegaly",
        r"enlarge(?:d|ment of)(?: the)? (?:heart|cardiac|cardiomediastinal|cardiopericardial)(?: (?:silhouette"
        r"|shadow|size))?",
    ),
    (
        "cardiomegaly",
        r"(?:heart|cardiac|cardiomediastinal|cardiopericardial|cardio mediastinal)(?: (?:size|silhouette|shadow"
        r"|contours?))?"
        r"(?:(?!\b(?:normal|but|with|effusion|lungs?|unremarkable)\b)[^;.,]){0,40}?(?:enlarge(?:d|ment)"
        r"|increased in size)",
    ),
    (
        "emphysema",
        r"emphysem\w+|copd|chronic obstructive\w*(?: \w+){0,2}? disease|hyper-?(?:inflat|expan|aerat|lucen|distend)\w*"
        r"|obstructive (?:lung|airways?|pulmonary) disease",
    ),
    ("fracture", r"fractures?|fractured"),
    (
        "endotracheal tube",
        r"(?:endotracheal|\bet|tracheostomy)(?: \w+)?(?: tubes?| tip)|\bett|tracheostomy|endotracheal intubation",
    ),
    (
        "nasogastric tube",
        r"(?:nasogastric|orogastric|enteric|feeding|\bng|\bog|gastric|nasoenteric|dobhoff|dobbhoff)(?: \w+)? tubes?"
        r"|dobb?hoff|\bngt\b",
    ),
    ("pacemaker", r"pacemakers?|\bpacer|\bicd|\baicd|defibrillators?|pacing (?:device|leads?|wires?|system)"),
    (
        "central venous catheter",
        r"(?:(?:internal jugular|jugular|\bij|subclavian|femoral|central)(?: (?:central|vein|venous|approach|dual"
        r"|lumen|\w+-"
        r"lumen|access|dialysis|tunneled))* (?:catheters?|lines?|ports?|sheath)|\bpicc(?: (?:lines?|catheters?))?"
        r"|port-?a-?cath\w*|xxxx-a-cath|medi-?port|(?:chest|chest wall|infusion|infuse-a|power"
        r"|venous access) ?-?ports?"
        r"|(?:dialysis|hemodialysis|swan-?ganz|pulmonary artery|venous|indwelling|infusion|tunneled) catheters?"
        r"|chest(?: xxxx,?)?(?: the)?(?: distal)? tip|swan-?ganz|central lines?|\bcvc|catheter tip|catheters?)",
    ),
)
TERM = re.compile("|".join(rf"(?P<t{i}>\b(?:{pattern})\b)" for i, (_, pattern) in enumerate(TERMS)))

# What CheXpert's labels cover beyond what is drawn: read for the labels alone.
LABEL_TERMS: dict[str, str] = {
    "Pleural Other": r"(?:pleural|pleuro-?parenchymal|fissural|(?:bi-?)?apical)(?: cap\w*)?(?:(?: and|/| or) ?\w+)?"
    r" (?:\w+ )?thickening|(?:pleural|pleuro-?parenchymal)(?:(?: and|/)? \w+)? (?:plaques?|calcifications?"
    r"|scar(?:s|ring)?|fibrosis|abnormalit(?:y|ies)|lesions?|rind)"
    r"|pleural[- ]based (?:\w+ )?(?:mass|opacity|lesion|density|nodule)"
    r"|thickening (?:of|along|in) the (?:\w+ ){0,2}(?:pleura|fissures?)|fibrothorax|calcified pleura\w*",
    "Support Devices": r"(?:chest |pleural )?(?:tubes?|drains?)|tubing|pigtails?|thoracostomy|drainage catheters?"
    r"|(?:support|monitor)(?:ing|ive)?(?: and \w+)? (?:devices?|apparatus|equipment|hardware|lines?)"
    r"|support lines|stimulators?|hardware|intubated"
    r"|(?:monitor(?:ing)?|ekg|ecg|telemetry|cardiac|pacing|pacer) (?:leads?|wires?|electrodes?)|leads (?:terminat\w+"
    r"|project\w*|in)|(?:\w+ )?closure device|shunt (?:tubing|catheter)|(?:vp|ventriculoperitoneal) shunt|ivc filter"
    r"|balloon pump|iabp|lvad|impella|ecmo|loop recorder|prosthe(?:sis|tic \w+)|arthroplast(?:y|ies)"
    r"|(?:internal )?fixation|prosthetic valves?|valve replacement|bone anchors?"
    r"|(?:spinal|vertebral|harrington) rods?|implanted \w+|swan",
    "Pneumonia": r"infections?|infectious",
    "Lung Lesion": r"cavit(?:y|ies|ations?|ary)|(?:lung|pulmonary|parenchymal) lesions?"
    r"|nodular(?: \w+){0,2} opacit(?:y|ies)|(?:pulmonary|lung) metasta\w+",
    "Atelectasis": r"collapsed?|(?:lung|lobar) volume loss",
    "Edema": r"vascular (?:redistribution|indistinctness)|cephali[sz](?:ation|ed)|(?:hilar|perihilar) congestion"
    r"|congested|indistinct(?:ness)?(?: of)?(?: the)? (?:pulmonary )?(?:vasc\w+|vessels)",
    "Pleural Effusion": r"ha?emothora(?:x|ces)|empyema|(?:pleural|pleural fluid) collections?(?! of (?:pleural )?air)",
    "Enlarged Cardiomediastinum": r"mediastin\w+(?: \w+){0,3}? (?:widen(?:ed|ing)|enlarge\w*|prominen\w+"
    r"|full(?:ness)?)"
    r"|(?:widen(?:ed|ing)|enlarge(?:d|ment)|prominen\w+|fullness)(?: of)?(?: the)?(?: \w+)? mediastinum",
}
LABEL_TERM = {name: re.compile(rf"\b(?:{pattern})\b") for name, pattern in LABEL_TERMS.items()}
ANY_LABEL = re.compile(rf"\b(?:{'|'.join(LABEL_TERMS.values())})\b")
# Not of this kind: said before the term, on the same stretch.
NOT_LABELLED = re.compile(
    r"\b(?:old|prior|previous|remote|healed|chronic)(?: \w+)? infecti\w+|granulomatous infecti\w+"
)

# Place and size. The letters of a group's name: what is set.
MODIFIER = re.compile(
    r"(?P<rul>\brul\b)|(?P<rml>\brml\b)|(?P<rll>\brll\b)|(?P<lul>\blul\b)|(?P<lll>\blll\b)|(?P<lingula>\blingula\w*)"
    r"|(?P<retrocardiac>\bretrocardiac\b)|(?P<bibasilar>\bbi-?bas\w+)|(?P<biapical>\bbi-?apical\b)"
    r"|(?P<bilateral>\bbilateral(?:ly)?\b|\bboth (?=lung|base|apice|hemithora|side|upper|lower|mid|costo)"
    r"|\b(?:upper|lower) lobes bilaterally\b)"
    r"|(?P<left>\bleft(?:-sided|ward)?\b)|(?P<right>\bright(?:-sided)?\b)"
    r"|(?P<upper>\bupper\b|\bapex\b|\bapical\b|\bapices\b|\bapicolateral\b|\bsuprahilar\b)"
    r"|(?P<middle>\bmiddle\b|\bmid ?-?(?:lungs?|zones?|field|hemithorax)?\b|\bperihilar\b)"
    r"|(?P<lower>\blower\b|\bbas(?:e|es|ilar|al)\b|\binfrahilar\b|\bcostophrenic\b)"
    r"|(?P<severe>\bsevere(?:ly)?\b|\blarge(?:r|st)?\b|\bextensive(?:ly)?\b|\bmassive(?:ly)?\b|\bmarked(?:ly)?\b"
    r"|\bgross(?:ly)? (?=enlarged)|\btension\b)"
    r"|(?P<moderate>\bmoderate(?:ly)?\b|\bmoderate-sized\b|\bmedium\b)"
    r"|(?P<mild>\bmild(?:ly)?\b|\bsmall(?:er)?\b|\bminimal(?:ly)?\b|\btrace\b|\btiny\b|\bslight(?:ly)?\b|\bminor\b"
    r"|\bsubtle\b|\bsubcentimeter\b|\bfaint\b)"
)
PLACES: dict[str, tuple[str | None, str | None]] = {
    "rul": ("right", "upper"),
    "rml": ("right", "middle"),
    "rll": ("right", "lower"),
    "lul": ("left", "upper"),
    "lll": ("left", "lower"),
    "lingula": ("left", "middle"),
    "retrocardiac": ("left", "lower"),
    "bibasilar": ("bilateral", "lower"),
    "biapical": ("bilateral", "upper"),
    "bilateral": ("bilateral", None),
    "left": ("left", None),
    "right": ("right", None),
    "upper": (None, "upper"),
    "middle": (None, "middle"),
    "lower": (None, "lower"),
}

# What parts the words of one finding from those of the next.
BOUNDARY = re.compile(
    r",|:|\band/or\b|\band\b|\bor\b|\bnor\b|\bwith(?:out)?\b|\bversus\b|\bvs\b\.?|/|\bbut\b|\bplus\b"
)
# Words that may stand between a finding and its place without ending its reach, and those that are no more than form.
_ADJECTIVES = (
    r"a|an|the|new|stable|unchanged|persistent|patchy|hazy|focal|multifocal|ill-defined|streaky|linear|bandlike|dense"
    r"|increased|increasing|decreased|improved|improving|worsening|worsened|residual|known|associated|adjacent"
    r"|layering"
    r"|likely|possible|possibly|probable|again|seen|noted|chronic|acute|subsegmental|discoid|early|confluent|scattered"
    r"|more|less|greater|than|predominantly|mostly|mainly|sized|in size|greatest|worse|right|left|bilateral|upper"
    r"|lower"
    r"|middle|mid|basilar|basal|apical|retrocardiac|perihilar|small|tiny|trace|mild|minimal|moderate|severe|large"
    r"|extensive|marked|slight|subtle|faint|lingular|underlying|overlying|superimposed|compressive|either|also"
)
ADJECTIVES_ONLY = re.compile(rf"(?:\s|-|\b(?:{_ADJECTIVES})\b)*")
FORM_ONLY = re.compile(
    rf"(?:\s|-|\b(?:{_ADJECTIVES}|there|is|are|has|have|been|was|were|on|in|at|of|to|within|lobes?|lungs?|bases?"
    rf"|zones?"
    r"|fields?|apex|apices|side|sides|hemithorax|midlung|lingula|interval|evidence|development|pleural|bibasilar"
    r"|biapical|both|r[uml]l|l[ul]l|currently|now)\b)*"
)

# How sure. A denial reaches forward until something turns the sentence.
DENIED_AHEAD = re.compile(
    r"\bno\b|\bnot\b|\bwithout\b|\bnegative for\b|\bfree (?:of|from)\b|\bclear of\b|\babsence of\b|\babsent\b|\bnor\b"
    r"|\bneither\b|\bdenies\b|\brather than\b|\bresol(?:ution of|ved)\b|\bremoval of\b|\bunlikely(?: to be"
    r"| to represent)?\b"
    r"|\blacks?\b|\brules? out\b(?= \w+ by)|\bexcludes\b"
)
DENIED_BEHIND = re.compile(
    r"\b(?:is|are|was|were|has|have)(?: been| now| completely| since| interval| not)*"
    r" (?:resolved|cleared|removed|absent|excluded|discontinued|unlikely|extubated)\b"
    r"|\b(?:is|are|was|were|has|have) (?:not|no longer)(?: been)?(?: \w+)?"
    r" (?:well[- ])?(?:seen|identified|evident|present|visualized|visible|demonstrated|appreciated|noted|detected"
    r"|apparent)\b"
    r"|\bno longer (?:\w+ )?(?:seen|identified|evident|present|visualized|visible)\b"
    r"|\b(?:has|have|had) (?:completely |fully |since )?(?:resolved|cleared)\b|\bunlikely\b|\bnot (?:seen"
    r"|identified)\b"
)
TURN = re.compile(
    r"\bbut\b|\bhowever\b|\balthough\b|\bthough\b|\bexcept\b|\bother than\b|\baside from\b|\bapart from\b|\bbesides\b"
    r"|\bwhich\b|\byet\b|\bsecondary to\b|\bdue to\b|\brelated to\b|\bstatus post\b|\bthere (?:is|are) (?!no\b)"
    r"|\bwhile\b"
    r"|\bwhereas\b|\bsave for\b"
)
# What ends the reach of a doubt: a cause does not, since it is what is doubted.
TURN_OF_DOUBT = re.compile(r"\bbut\b|\bhowever\b|\balthough\b|\bthough\b|\bexcept\b|\bwhile\b|\bwhereas\b|\bno\b")
WITH = re.compile(r"(?<!compatible )(?<!consistent )\bwith\b")
# After a comma or `and`, words with which an affirmation sets in anew.
ANEW = re.compile(
    r"\s*(?:a|an|the|there (?:is|are)|stable|unchanged|persistent|small|mild|moderate|trace|minimal|new|increased"
    r"|improved"
    r"|left|right|bilateral|bibasilar|low|heart|lungs?|cardiac|patchy|tiny|slight|again)\b"
)
UNSURE_NOT = re.compile(
    r"\b(?:cannot|can not|could not|can't|not)(?: be)?(?: \w+){0,2}? (?:excluded?|rule(?:d)? out)\b"
    r"|\b(?:is|are) (?:not|difficult to)(?: \w+)? (?:excluded?|rule(?:d)? out|evaluate)\b"
    r"|\b(?:difficult|not possible|hard) to (?:exclude|rule out)\b"
    r"|\bif not\b(?! (?:slightly|minimally|larger|smaller|more|worse|improved))|\bnot definitely excluded\b"
)
UNSURE_WORD = re.compile(
    r"\bpossib(?:le|ly)\b|\bprobabl[ey]\b|\bquestion(?:able|ed|ing)?(?: of)?\b|\bsuspected\b|\bperhaps\b|\bpresumed\b"
    r"|\blikely\b(?! (?:unchanged|stable))|\bpotential(?:ly)?\b|\bequivocal\b|\bborderline\b|\bif any\b"
    r"|\b(?:vague|suggestion of|suspicion (?:of|for))\b"
)
UNSURE_AHEAD = re.compile(
    r"\b(?:may|might|could|can|would)(?: also| well| possibly)? (?:be|represent|reflect|suggest|indicate|relate"
    r"|have|include)\w*|\bin the (?:appropriate|right|proper) clinical (?:setting|context)\b"
    r"|\b(?:concern(?:ing)?|suspicious|worrisome|suspicion|question) (?:for|of)\b"
    r"|\bsuggest(?:s|ing|ive|ed)?(?: of| that)?\b|\bfavou?r(?:s|ed|ing)?\b|\bdifferential\b|\bversus\b|\bvs\b"
    r"|\beither\b"
    r"|\braise\w* (?:the )?(?:possibility|question|concern)(?: of| for)?\b"
)
UNSURE_BEHIND = re.compile(
    r",? if any\b|\b(?:is|are|remains?|also|be)(?: also)? (?:possible|suspected|presumed|questioned"
    r"|likely(?! (?:unchanged|stable))|considered"
    r"|a consideration|a possibility|probable|in the differential)\b|\bmay (?:also )?be present\b|\b(?:could"
    r"|might) (?:also )?be present\b|\bin the (?:appropriate|right|proper) clinical (?:setting|context)\b"
)
# The image is not said to show it: questions, histories, advice.
HYPOTHETICAL = re.compile(
    r"\b(?:evaluat\w+|assess\w*|looking|screen\w*|search) (?:for|of)\b|\brule out\b|\br/o\b|\bto exclude\b"
    r"|\bhistory of\b|\bh/o\b|\bcorrelat\w+\b|\bmore sensitive\b|\bsensitivity (?:to detect|for|in detecting)\b"
    r"|\bif (?:there|clinical\w*|concern|symptom|suspic)\w*\b|\bclinical (?:concern|suspicion|question) (?:for|of)\b"
    r"|\brecommend\w*\b|\bindication\b|\bprotocol\b|\bplease\b|\bcould obscure\b|\bdecreases sensitivity\b"
)
# Between two findings: the second says more of the first and stands where it does.
LINK = re.compile(
    r"\b(?:associated|adjacent|overlying|underlying|compressive|superimposed|accompanying|represent\w*|reflect\w*"
    r"|concerning"
    r"|suspicious|worrisome|consistent|compatible|suggest\w*|favou?r\w*|due to|from|relate\w*|likely|possibly"
    r"|probably|may be"
    r"|could be|with)\b"
)
ALTERNATIVE = re.compile(r"\bor\b|\bversus\b|\bvs\b|\band/or\b|/")

NORMAL = re.compile(
    r"\bno(?: \w+){0,4}? (?:acute|active)\b|\bnormal (?:chest|study|examination|exam|radiograph|film|portable|pa"
    r"|frontal|heart"
    r"|cardio)|\b(?:chest|examination|study|radiographs?) (?:is |are )?(?:\w+ )?(?:normal|unremarkable"
    r"|within normal limits)"
    r"|\bunremarkable (?:chest|examination|exam|study|radiograph)|\bnegative (?:chest|for acute|acute|exam|study"
    r"|\w+ chest)"
    r"|\blungs?(?: \w+){0,4}? clear\b|\bclear lungs?\b|\bno (?:significant |focal |radiographic )?abnormalit"
    r"|\bno evidence of"
    r" (?:acute|active)|\bwithin normal limits\b|^\W*(?:normal|negative|unremarkable)\W*$"
)
