"""All corpora, by name."""

from __future__ import annotations

from echox.data.corpora.base import Corpus
from echox.data.corpora.public.spoken.audioqa import AudioQA
from echox.data.corpora.public.spoken.echox_dialogues import EchoXDialogues
from echox.data.corpora.public.spoken.hh_rlhf_speech import HHRLHFSpeech
from echox.data.corpora.public.spoken.instructs2s import InstructS2S
from echox.data.corpora.public.spoken.librispeech import LibriSpeech
from echox.data.corpora.public.spoken.magpie_speech import MagpieProSpeech
from echox.data.corpora.public.spoken.mls import EnglishLibriSpeech, MultilingualLibriSpeech
from echox.data.corpora.public.spoken.sharechatx import ShareChatX
from echox.data.corpora.public.spoken.speechinstruct import SpeechInstruct
from echox.data.corpora.public.spoken.voiceassistant import VoiceAssistant
from echox.data.corpora.public.texts.opentriviaqa import OpenTriviaQA
from echox.data.corpora.public.texts.webquestions import WebQuestions
from echox.data.corpora.public.texts.wordnet import WordNet
from echox.data.corpora.table import Table

CORPORA: dict[str, type[Corpus]] = {
    corpus.name: corpus
    for corpus in (
        LibriSpeech,
        MultilingualLibriSpeech,
        EnglishLibriSpeech,
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
