"""All corpora, by name."""

from __future__ import annotations

from echox.data.corpora.audioqa import AudioQA
from echox.data.corpora.base import Corpus
from echox.data.corpora.echox_dialogues import EchoXDialogues
from echox.data.corpora.hh_rlhf_speech import HHRLHFSpeech
from echox.data.corpora.instructs2s import InstructS2S
from echox.data.corpora.librispeech import LibriSpeech
from echox.data.corpora.magpie_speech import MagpieProSpeech
from echox.data.corpora.mls import MultilingualLibriSpeech
from echox.data.corpora.opentriviaqa import OpenTriviaQA
from echox.data.corpora.sharechatx import ShareChatX
from echox.data.corpora.speechinstruct import SpeechInstruct
from echox.data.corpora.table import Table
from echox.data.corpora.voiceassistant import VoiceAssistant
from echox.data.corpora.webquestions import WebQuestions
from echox.data.corpora.wordnet import WordNet

CORPORA: dict[str, type[Corpus]] = {
    corpus.name: corpus
    for corpus in (
        LibriSpeech,
        MultilingualLibriSpeech,
        AudioQA,
        SpeechInstruct,
        HHRLHFSpeech,
        ShareChatX,
        MagpieProSpeech,
        EchoXDialogues,
        InstructS2S,
        VoiceAssistant,
        OpenTriviaQA,
        WebQuestions,
        WordNet,
        Table,
    )
}


def open_corpus(name: str) -> Corpus:
    """The corpus with this name. Raises ValueError for an unknown one."""
    if name not in CORPORA:
        raise ValueError(f"corpus: expected one of {', '.join(CORPORA)}, found {name!r}")
    return CORPORA[name]()
