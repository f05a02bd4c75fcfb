"""V1 image IDs: which layer an ID of the old registry protocol is. Knows only `Store`.

Source: Docker's distribution/metadata/v1_id_service.go.
"""

from __future__ import annotations

from layerstore.arguments import a_store
from layerstore.digest import DiffID
from layerstore.errors import CorruptRecordError, LayerstoreError
from layerstore.keys import V1_IDS
from layerstore.records import decode_diff_id, v1_key
from layerstore.store import Store


class V1IDService:
    """Map the V1 image IDs of a registry to DiffIDs.

    `V1IDService(None)` knows nothing: looking up raises, setting does nothing.

    Source: Docker's `V1IDService`.
    """

    def __init__(self, store: Store | None) -> None:
        if store is not None:
            a_store(store)
        self._store = store

    def get(self, v1_id: str, registry: str) -> DiffID:
        """Return the DiffID of a V1 ID at a registry. One read of the store.

        Raises:
            NotFoundError: the store has none.
            CorruptRecordError: the value is empty or not a DiffID.
            InvalidV1IDError: `v1_id` is not 64 lower-case hex digits.
            InvalidKeyError: `registry` cannot be part of a key.
            LayerstoreError: the service has no store.
            StoreError: the store failed.

        Source: Docker's `V1IDService.Get`.
        Differs: Docker returns an empty or malformed value as it is.
        """
        if self._store is None:
            raise LayerstoreError("this V1IDService has no store")
        key = v1_key(v1_id, registry)
        value = self._store.get(V1_IDS, key)
        try:
            return decode_diff_id(value)
        except ValueError as error:
            raise CorruptRecordError(V1_IDS, key, str(error)) from error

    def set(self, v1_id: str, registry: str, diff_id: str) -> None:
        """Record the DiffID of a V1 ID at a registry, in place of the one that was there. One write of the store.

        Raises:
            InvalidV1IDError: `v1_id` is not 64 lower-case hex digits.
            InvalidDigestError: `diff_id` is not a DiffID.
            InvalidKeyError: `registry` cannot be part of a key.
            StoreError: the store failed; nothing was written.

        Source: Docker's `V1IDService.Set`.
        """
        if self._store is None:
            return
        key = v1_key(v1_id, registry)
        self._store.set(V1_IDS, key, DiffID.parse(diff_id).encode())
