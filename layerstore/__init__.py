"""What a container engine remembers about its image layers, in one SQLite file.

    from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService

    with SQLMetadataStore("layers.db") as store:
        v2 = V2MetadataService(store)
        v2.add(diff_id, V2Metadata(digest, "localhost:5000/team/app"))
        v2.get_metadata(diff_id)

Names are loaded when they are first used, so that what needs no SQLAlchemy does not wait for its import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from layerstore import errors

if TYPE_CHECKING:
    from layerstore.blobs import BlobRecord as BlobRecord
    from layerstore.collection import Odd as Odd
    from layerstore.collection import Source as Source
    from layerstore.digest import DiffID as DiffID
    from layerstore.digest import Digest as Digest
    from layerstore.docker.images import Image as Image
    from layerstore.docker.images import find_image as find_image
    from layerstore.docker.images import layer_sizes as layer_sizes
    from layerstore.errors import CorruptRecordError as CorruptRecordError
    from layerstore.errors import ImageNotFoundError as ImageNotFoundError
    from layerstore.errors import InvalidDigestError as InvalidDigestError
    from layerstore.errors import InvalidInputError as InvalidInputError
    from layerstore.errors import InvalidKeyError as InvalidKeyError
    from layerstore.errors import InvalidRepositoryError as InvalidRepositoryError
    from layerstore.errors import InvalidV1IDError as InvalidV1IDError
    from layerstore.errors import LayerstoreError as LayerstoreError
    from layerstore.errors import NotFoundError as NotFoundError
    from layerstore.errors import QueryError as QueryError
    from layerstore.errors import QueryStoppedError as QueryStoppedError
    from layerstore.errors import SchemaVersionError as SchemaVersionError
    from layerstore.errors import StoreBusyError as StoreBusyError
    from layerstore.errors import StoreClosedError as StoreClosedError
    from layerstore.errors import StoreConnectionError as StoreConnectionError
    from layerstore.errors import StoreCorruptError as StoreCorruptError
    from layerstore.errors import StoreError as StoreError
    from layerstore.errors import StoreFullError as StoreFullError
    from layerstore.errors import StoreOpenError as StoreOpenError
    from layerstore.errors import StoreReadOnlyError as StoreReadOnlyError
    from layerstore.errors import TransferError as TransferError
    from layerstore.files.store import FSMetadataStore as FSMetadataStore
    from layerstore.hmac import AuthConfig as AuthConfig
    from layerstore.hmac import check_hmac as check_hmac
    from layerstore.hmac import compute_hmac as compute_hmac
    from layerstore.hmac import compute_hmac_key as compute_hmac_key
    from layerstore.keys import Record as Record
    from layerstore.push.candidates import PushAttempts as PushAttempts
    from layerstore.push.candidates import existence_candidates as existence_candidates
    from layerstore.push.candidates import mount_candidates as mount_candidates
    from layerstore.push.candidates import push_attempts as push_attempts
    from layerstore.push.credentials import docker_credentials as docker_credentials
    from layerstore.push.layers import KnownLayer as KnownLayer
    from layerstore.push.layers import LayerCandidates as LayerCandidates
    from layerstore.push.layers import LeftOut as LeftOut
    from layerstore.push.layers import Step as Step
    from layerstore.push.layers import known_layers as known_layers
    from layerstore.push.layers import layer_candidates as layer_candidates
    from layerstore.push.plan import PlannedLayer as PlannedLayer
    from layerstore.push.plan import PushPlan as PushPlan
    from layerstore.push.plan import plan_push as plan_push
    from layerstore.records import V2Metadata as V2Metadata
    from layerstore.reports import Report as Report
    from layerstore.reports import Skipped as Skipped
    from layerstore.repository import canonical_repository as canonical_repository
    from layerstore.sql.backend import Answer as Answer
    from layerstore.sql.backend import Known as Known
    from layerstore.sql.backend import Quarantined as Quarantined
    from layerstore.sql.quarantine import drop_quarantined as drop_quarantined
    from layerstore.sql.quarantine import restore_quarantined as restore_quarantined
    from layerstore.sql.query import query as query
    from layerstore.sql.reading.layers import Association as Association
    from layerstore.sql.reading.layers import Blob as Blob
    from layerstore.sql.reading.layers import KnownBlob as KnownBlob
    from layerstore.sql.reading.layers import Layer as Layer
    from layerstore.sql.reading.layers import LayerDigest as LayerDigest
    from layerstore.sql.reading.layers import Location as Location
    from layerstore.sql.reading.layers import V1Image as V1Image
    from layerstore.sql.reading.search import Held as Held
    from layerstore.sql.reading.search import ListedRepository as ListedRepository
    from layerstore.sql.reading.search import Located as Located
    from layerstore.sql.reading.search import Repository as Repository
    from layerstore.sql.reading.search import look_up as look_up
    from layerstore.sql.reading.totals import DirectorySize as DirectorySize
    from layerstore.sql.reading.totals import Stats as Stats
    from layerstore.sql.reading.totals import stats as stats
    from layerstore.sql.store import SQLMetadataStore as SQLMetadataStore
    from layerstore.sql.tables import Engine as Engine
    from layerstore.sql.tables import schema as schema
    from layerstore.store import Change as Change
    from layerstore.store import SetAside as SetAside
    from layerstore.store import Store as Store
    from layerstore.store import Write as Write
    from layerstore.transfer.diffing import BlobDifference as BlobDifference
    from layerstore.transfer.diffing import DiffReport as DiffReport
    from layerstore.transfer.diffing import Entry as Entry
    from layerstore.transfer.diffing import LayerDifference as LayerDifference
    from layerstore.transfer.diffing import diff as diff
    from layerstore.transfer.exporting import ExportReport as ExportReport
    from layerstore.transfer.exporting import export_directory as export_directory
    from layerstore.transfer.exporting import export_layers as export_layers
    from layerstore.transfer.importing import ImportReport as ImportReport
    from layerstore.transfer.importing import QuarantinedEntry as QuarantinedEntry
    from layerstore.transfer.importing import SourceReport as SourceReport
    from layerstore.transfer.importing import import_directory as import_directory
    from layerstore.transfer.importing import import_layers as import_layers
    from layerstore.transfer.merging import Conflict as Conflict
    from layerstore.transfer.merging import Eviction as Eviction
    from layerstore.transfer.pruning import PruneReport as PruneReport
    from layerstore.transfer.pruning import prune as prune
    from layerstore.transfer.recovering import RecoverReport as RecoverReport
    from layerstore.transfer.recovering import recover as recover
    from layerstore.transfer.verifying import Finding as Finding
    from layerstore.transfer.verifying import VerifyReport as VerifyReport
    from layerstore.transfer.verifying import verify as verify
    from layerstore.v1 import V1IDService as V1IDService
    from layerstore.v2 import V2MetadataService as V2MetadataService

__version__ = "0.1.0"

_MODULES = {
    "blobs": ("BlobRecord",),
    "collection": ("Odd", "Source"),
    "digest": ("DiffID", "Digest"),
    "docker.images": ("Image", "find_image", "layer_sizes"),
    "errors": errors.__all__,
    "files.store": ("FSMetadataStore",),
    "hmac": ("AuthConfig", "check_hmac", "compute_hmac", "compute_hmac_key"),
    "keys": ("Record",),
    "push.candidates": ("PushAttempts", "existence_candidates", "mount_candidates", "push_attempts"),
    "push.credentials": ("docker_credentials",),
    "push.layers": ("KnownLayer", "LayerCandidates", "LeftOut", "Step", "known_layers", "layer_candidates"),
    "push.plan": ("PlannedLayer", "PushPlan", "plan_push"),
    "records": ("V2Metadata",),
    "reports": ("Report", "Skipped"),
    "repository": ("canonical_repository",),
    "sql.backend": ("Answer", "Known", "Quarantined"),
    "sql.quarantine": ("drop_quarantined", "restore_quarantined"),
    "sql.query": ("query",),
    "sql.reading.layers": ("Association", "Blob", "KnownBlob", "Layer", "LayerDigest", "Location", "V1Image"),
    "sql.reading.search": ("Held", "ListedRepository", "Located", "Repository", "look_up"),
    "sql.reading.totals": ("DirectorySize", "Stats", "stats"),
    "sql.store": ("SQLMetadataStore",),
    "sql.tables": ("Engine", "schema"),
    "store": ("Change", "SetAside", "Store", "Write"),
    "transfer.diffing": ("BlobDifference", "DiffReport", "Entry", "LayerDifference", "diff"),
    "transfer.exporting": ("ExportReport", "export_directory", "export_layers"),
    "transfer.importing": ("ImportReport", "QuarantinedEntry", "SourceReport", "import_directory", "import_layers"),
    "transfer.merging": ("Conflict", "Eviction"),
    "transfer.pruning": ("PruneReport", "prune"),
    "transfer.recovering": ("RecoverReport", "recover"),
    "transfer.verifying": ("Finding", "VerifyReport", "verify"),
    "v1": ("V1IDService",),
    "v2": ("V2MetadataService",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: PLE0604  # a test holds it against the imports above
    "__version__",
    *sorted(_HOME),
]


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
