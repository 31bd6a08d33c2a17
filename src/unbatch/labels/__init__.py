"""Label restorers: one file each. See ``unbatch.contracts.LabelRestorer``."""
