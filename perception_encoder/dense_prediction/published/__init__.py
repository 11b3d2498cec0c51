"""The detectors that the paper's authors published (PE-Detection), in the layouts of detectron2 and of DETA."""
