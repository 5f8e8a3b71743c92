"""What the first epoch of a run that fills its stores as it goes is going to add to them."""

from collections.abc import Iterator, Sequence

from epic_pl.features import Addition, GrowingStore, fits, require_disk
from epic_pl.features.dataset import FeatureDataset, PictureKey, pictures
from epic_pl.features.estimate import spread
from epic_pl.features.layout import Layout
from epic_pl.features.modalities import Pictures, Texts


class FirstEpoch:
    """Counts what splits need and the stores lack.

    A picture whose digest is not remembered counts as lacking, since only reading it could tell,
    and the run is to start at once; they are read only if the disk would be too small for all.

    Args:
        pictures: of the splits.
        texts: of the splits.
        images: store of the pictures.
        sentences: store of the texts.
    """

    def __init__(
        self, pictures: Pictures, texts: Texts, images: GrowingStore, sentences: GrowingStore
    ) -> None:
        self._pictures, self._texts = pictures, texts
        self._images, self._sentences = images, sentences
        self._splits: list[tuple[FeatureDataset, int]] = []

    def add(self, dataset: FeatureDataset, views: int) -> None:
        """Count a split: ``views`` augmented ones of each picture, or as evaluation sees it."""
        self._splits.append((dataset, views))

    def require_disk(self) -> None:
        """Print what will be added, and compare it with the free disk.

        Raises:
            CacheError: too little is free.
        """
        root = self._pictures.options.root
        texts = self._text_addition()
        additions = [self._picture_addition(read=False), texts]
        if not fits(root, additions):
            additions = [self._picture_addition(read=True), texts]
        require_disk(root, additions, show=True, title="Caching in the first epoch, at most")

    def _picture_addition(self, read: bool) -> Addition:
        count, seen = 0, set[str | PictureKey]()
        for dataset, views in self._splits:
            names = set(self._names(dataset, views, read)) - seen
            seen |= names
            known = [name for name in names if isinstance(name, str)]
            lacking = self._images.lacking(known) + len(names) - len(known)
            count += min(lacking, len(dataset)) if views else lacking  # a row draws one view
        spec = self._images.spec
        return Addition(spec, count, Layout.of(spec).bytes_per_item())

    def _names(self, dataset: FeatureDataset, views: int, read: bool) -> Iterator[str | PictureKey]:
        """Of each picture its hash, or, where that is not known, the picture itself."""
        for key in self._pictures.add(pictures(dataset), views):
            name = self._pictures.hashes([key])[0] if read else self._pictures.known_hash(key)
            yield name or key

    def _text_addition(self) -> Addition:
        texts = list({text: None for dataset, _ in self._splits for text in dataset.distinct()[1]})
        spec = self._sentences.spec
        lacking = self._sentences.lacking(self._texts.hashes(texts))
        return Addition(spec, lacking, self._bytes_per_text(texts) if lacking else 0.0)

    def _bytes_per_text(self, texts: Sequence[str]) -> float:
        """Of texts that are spread over all."""
        layout, spec = Layout.of(self._sentences.spec), self._sentences.spec
        if not spec.ragged:
            return layout.bytes_per_item()
        lengths = self._texts.lengths(spread(texts, self._texts.options.batch_size))
        return layout.bytes_per_item(float(lengths.mean()))
