"""The error tree.

BaeRayError
├── InvalidInputError      something the user gave cannot work: nothing long has started
│   ├── UnknownModelError
│   ├── UnknownCorpusError
│   ├── UnreadableFileError
│   ├── NoTextLongEnoughError
│   ├── NotEnoughDiskError
│   ├── NotFiniteError
│   ├── ClaimedError       another process is at work in the folder
│   └── NoPriorError
├── StoreError             an activation store cannot be used as asked
│   ├── ForeignStoreError
│   ├── IncompleteStoreError
│   └── CorruptShardError
├── UnfinishedError        units of the work failed, or it stopped; what is finished is kept
│   ├── ExtractionError    shards could not be computed
│   ├── TrainingError      one autoencoder could not be trained
│   │   ├── DivergedError
│   │   └── OutOfMemoryError
│   └── ConversionError    parts of files could not be compressed or decompressed; a CompressionError too
├── CompressionError       codes cannot be compressed, or a container not be read
│   ├── CorruptContainerError
│   ├── ContainerTooLargeError
│   └── ForeignModelError
├── JudgeError             the language model that judges cannot be asked
│   ├── UnansweredError
│   │   └── RefusedRequestError
│   └── CostLimitError
├── ServiceError           an application of Ray Serve did not start
├── HubError               the Hugging Face hub does not take what is uploaded
└── CheckpointError        a saved autoencoder cannot be loaded

Every message names the value, what was expected, and what to do.
"""


class BaeRayError(Exception):
    """Base of every error that bae_ray raises on purpose."""


class InvalidInputError(BaeRayError):
    """A value that the user gave cannot work; raised before any long work starts."""


class UnknownModelError(InvalidInputError):
    """No language model under that name."""


class NoHeadError(InvalidInputError):
    """A language model has no head, by which it would predict tokens."""


class UnknownCorpusError(InvalidInputError):
    """No corpus under that name."""


class UnreadableFileError(InvalidInputError):
    """A file exists but cannot be read as what it should be."""


class NoTextLongEnoughError(InvalidInputError):
    """No text of the corpus reaches the last requested position."""


class NotEnoughDiskError(InvalidInputError):
    """The destination has less free space than the store will take."""


class NotFiniteError(InvalidInputError):
    """Numbers are NaN or infinite, or become so in the dtype of the computation."""


class NoPriorError(InvalidInputError):
    """Magnitudes were requested from a binary autoencoder without firing rates (a prior)."""


class ClaimedError(InvalidInputError):
    """Another process is at work in the folder."""


class StoreError(BaeRayError):
    """An activation store cannot be used as asked."""


class ForeignStoreError(StoreError):
    """The folder holds the store of a different run."""


class IncompleteStoreError(StoreError):
    """The folder holds no finished store."""


class CorruptShardError(StoreError):
    """A file of the store is missing or does not have its recorded checksum."""


class UnfinishedError(BaeRayError):
    """Units of the work failed, or it stopped before its end; the same call goes on from what is finished."""


class ExtractionError(UnfinishedError):
    """One or more shards could not be computed."""


class TrainingError(UnfinishedError):
    """One autoencoder could not be trained."""


class DivergedError(TrainingError):
    """The training loss became NaN or infinite."""


class OutOfMemoryError(TrainingError):
    """The autoencoders do not fit into the device's memory."""


class CompressionError(BaeRayError):
    """Codes cannot be compressed, or a container of codes cannot be read."""


class ConversionError(CompressionError, UnfinishedError):
    """Parts of files could not be compressed or decompressed."""


class CorruptContainerError(CompressionError):
    """The bytes are no container of codes, or a damaged one."""


class ContainerTooLargeError(CompressionError):
    """The codes of a container are larger than the caller allows."""


class ForeignModelError(CompressionError):
    """A container's codes belong to another autoencoder."""


class JudgeError(BaeRayError):
    """The judge (a language model) cannot be asked, or stopped answering."""


class UnansweredError(JudgeError):
    """One request has no answer, however often it was sent; others may have."""


class RefusedRequestError(UnansweredError):
    """The server refuses the request, for example because of a content filter. Sending it again does not help."""


class CostLimitError(JudgeError):
    """Going on would cost more than was allowed."""


class ServiceError(BaeRayError):
    """An application of Ray Serve did not start."""


class HubError(BaeRayError):
    """The Hugging Face hub does not take what is uploaded, or cannot be reached."""


class CheckpointError(BaeRayError):
    """A saved autoencoder cannot be loaded."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is too little memory, in Python's words or torch's."""
    if isinstance(error, BaeRayError):
        return False
    named = {kind.__name__ for kind in type(error).__mro__} & {"MemoryError", "OutOfMemoryError"}
    return bool(named) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def first_line(error: BaseException) -> str:
    """What another library says, as one sentence: the first line of its message, or else the error's name."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].strip().rstrip(":")
    return line if line.endswith((".", "!", "?")) else f"{line}."
