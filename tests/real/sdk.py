"""Azure's client library for container registries, driven through every public method of its client.

One story for both of its clients, the synchronous and the asynchronous one: what they return is waited for, or listed, as it needs.
"""

import hashlib
import inspect
import io
from collections.abc import Awaitable
from typing import Any

from azure.containerregistry import ArtifactManifestOrder, ArtifactTagOrder
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER_BYTES = 5 * 1024 * 1024
"""More than one of the library's chunks."""


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def public_methods(client: type) -> set[str]:
    return {name for name, each in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")}


class Story:
    """Drives a client and notes what came of each method. `changer` is a client of one who may change attributes."""

    def __init__(self, client: Any, changer: Any, repository: str):
        self.client, self.changer, self.repository = client, changer, repository
        self.results: dict[str, str] = {}

    def table(self) -> str:
        width = max(len(name) for name in self.results)
        return "".join(f"{name:{width}}  {result}\n" for name, result in sorted(self.results.items()))

    async def call(self, method: str, *words, by: Any = None, **options) -> Any:
        """The method's result, all of it."""
        made = getattr(by or self.client, method)(*words, **options)
        if isinstance(made, Awaitable):
            made = await made
        if hasattr(made, "by_page"):
            pages = made.by_page()
            if hasattr(pages, "__aiter__"):
                made = [[item async for item in page] async for page in pages]
            else:
                made = [list(page) for page in pages]
        elif method == "download_blob":
            made = b"".join([part async for part in made] if hasattr(made, "__aiter__") else list(made))
        self.results.setdefault(method, "ok")
        return made

    async def refused(self, status: int, method: str, *words, by: Any = None, **options) -> None:
        """The edge refuses, with this status."""
        try:
            await self.call(method, *words, by=by, **options)
        except HttpResponseError as error:
            assert error.status_code == status, error
            return
        raise AssertionError(f"{method} was not refused")

    async def tell(self) -> None:
        await self.push()
        await self._look()
        await self._lock()
        await self._delete()

    async def push(self) -> None:
        name = self.repository
        self.config = b'{"architecture":"arm64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
        self.layer = bytes(range(256)) * (LAYER_BYTES // 256)
        assert await self.call("upload_blob", name, io.BytesIO(self.config)) == (digest_of(self.config), len(self.config))
        assert await self.call("upload_blob", name, io.BytesIO(self.layer)) == (digest_of(self.layer), len(self.layer))
        self.first = await self.call("set_manifest", name, self.manifest("first"), tag="v1")
        self.second = await self.call("set_manifest", name, self.manifest("second"))
        for tag in ("v2", "v3"):
            assert await self.call("set_manifest", name, self.manifest("second"), tag=tag) == self.second

    def manifest(self, note: str) -> dict:
        def descriptor(media_type: str, content: bytes) -> dict:
            return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}

        return {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, self.config),
                "layers": [descriptor(LAYER, self.layer)], "annotations": {"org.example.note": note}}

    async def _look(self) -> None:
        name = self.repository
        for reference in ("v1", self.first):
            read = await self.call("get_manifest", name, reference)
            assert (read.digest, read.media_type, read.manifest) == (self.first, MANIFEST, self.manifest("first"))
        assert await self.call("download_blob", name, digest_of(self.layer)) == self.layer
        names = await self.call("list_repository_names", results_per_page=1)
        assert len(names) > 1 and all(len(page) <= 1 for page in names) and [name] in names, names
        properties = await self.call("get_repository_properties", name)
        assert (properties.name, properties.manifest_count, properties.tag_count) == (name, 2, 3)
        assert properties.created_on <= properties.last_updated_on
        assert all((properties.can_read, properties.can_write, properties.can_delete, properties.can_list))
        for order, tags in ((None, ["v1", "v2", "v3"]), (ArtifactTagOrder.LAST_UPDATED_ON_DESCENDING, ["v3", "v2", "v1"]),
                            (ArtifactTagOrder.LAST_UPDATED_ON_ASCENDING, ["v1", "v2", "v3"])):
            pages = await self.call("list_tag_properties", name, order_by=order, results_per_page=2)
            assert [[tag.name for tag in page] for page in pages] == [tags[:2], tags[2:]], order
        of_first = await self.call("list_tag_properties", name, digest=self.first)
        assert [tag.name for page in of_first for tag in page] == ["v1"]
        tag = await self.call("get_tag_properties", name, "v2")
        assert (tag.name, tag.digest) == ("v2", self.second) and tag.created_on <= tag.last_updated_on
        newest = await self.call("list_manifest_properties", name, order_by=ArtifactManifestOrder.LAST_UPDATED_ON_DESCENDING,
                                 results_per_page=1)
        assert [[each.digest for each in page] for page in newest] == [[self.second], [self.first]]
        for reference in ("v2", self.second):
            properties = await self.call("get_manifest_properties", name, reference)
            assert (properties.digest, properties.tags) == (self.second, ["v2", "v3"])
            assert (properties.architecture, properties.operating_system) == ("arm64", "linux")
            assert properties.size_in_bytes == len(self.config) + len(self.layer)

    async def _lock(self) -> None:
        name, by = self.repository, self.changer
        tag = await self.call("update_tag_properties", name, "v1", by=by, can_write=False, can_delete=False)
        assert (tag.can_write, tag.can_delete, tag.can_read, tag.can_list) == (False, False, True, True)
        await self.refused(403, "set_manifest", name, self.manifest("second"), tag="v1")
        await self.refused(403, "delete_tag", name, "v1")
        await self.refused(403, "delete_manifest", name, "v1")
        await self.refused(403, "delete_repository", name)
        tag.can_write = tag.can_delete = True
        assert (await self.call("update_tag_properties", name, "v1", tag, by=by)).can_write
        manifest = await self.call("update_manifest_properties", name, self.second, by=by, can_delete=False)
        assert (manifest.digest, manifest.can_delete, manifest.can_write) == (self.second, False, True)
        await self.refused(403, "delete_manifest", name, self.second)
        hidden = await self.call("update_manifest_properties", name, "v2", by=by, can_delete=True, can_list=False, can_read=False)
        assert (hidden.can_delete, hidden.can_list, hidden.can_read) == (True, False, False)
        listed = await self.call("list_manifest_properties", name)
        assert [each.digest for page in listed for each in page] == [self.first]
        await self.refused(403, "get_manifest", name, "v2")
        await self.call("update_manifest_properties", name, self.second, by=by, can_list=True, can_read=True)
        properties = await self.call("update_repository_properties", name, by=by, can_write=False)
        assert (properties.name, properties.can_write, properties.can_delete) == (name, False, True)
        await self.refused(403, "set_manifest", name, self.manifest("third"), tag="v4")
        await self.refused(403, "delete_tag", name, "v2")
        properties.can_write = True
        assert (await self.call("update_repository_properties", name, properties, by=by)).can_write

    async def _delete(self) -> None:
        name = self.repository
        await self.call("delete_tag", name, "v3")
        await self.call("delete_tag", name, "v3")
        tags = await self.call("list_tag_properties", name)
        assert [tag.name for page in tags for tag in page] == ["v1", "v2"]
        extra = io.BytesIO(b"nobody needs this")
        digest, _ = await self.call("upload_blob", name, extra)
        await self.call("delete_blob", name, digest)
        await self.refused(405, "delete_blob", name, digest_of(self.layer))
        await self.call("delete_manifest", name, "v2")
        await self.call("delete_manifest", name, self.second)
        await self.call("delete_repository", name)
        await self.call("delete_repository", name)
        for method, words in (("get_repository_properties", ()), ("get_tag_properties", ("v1",)), ("get_manifest_properties", (self.first,))):
            try:
                await self.call(method, name, *words)
            except ResourceNotFoundError:
                continue
            raise AssertionError(f"{method} found what was deleted")
