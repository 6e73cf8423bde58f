import transformers

from sonolume.models import pretrained


def test_diffusers_gets_pil_processors_without_a_warning() -> None:
    pretrained.use_pil_processors()
    if not transformers.utils.is_torchvision_available():
        assert transformers.CLIPImageProcessor is transformers.CLIPImageProcessorPil
        assert transformers.SiglipImageProcessor is transformers.SiglipImageProcessorPil
