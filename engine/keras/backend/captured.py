"""What a captured step finds changed of Keras' objects, in a loop of a program's own (`tilegrad.capture`).

Variables keep their memory, so their values may change. All else that an object has is a part of the step: which
variables and layers there are, whether they are trained, rates and options.
"""

from __future__ import annotations

from keras.src.backend.common.variables import Variable
from keras.src.constraints.constraints import Constraint
from keras.src.optimizers.schedules.learning_rate_schedule import LearningRateSchedule
from keras.src.random.seed_generator import SeedGenerator
from keras.src.regularizers.regularizers import Regularizer
from keras.src.saving.keras_saveable import KerasSaveable

from tilegrad.captured.frameworks import KNOWN, Framework

_BOOKS = """
    name _name _path _parent_path _lock _tracker _losses _loss_ids _losses_override _inbound_nodes _outbound_nodes
    _auto_config _called built build quantize supports_jit _build_shapes_dict _initial_seed _input_spec
    call_signature_parameters _call_signature _call_has_training_arg _call_has_mask_arg _call_has_context_arg
    _call_context_args _allow_non_tensor_positional_args _trainable_variables_indices
"""

KNOWN["keras"] = KNOWN["keras_hub"] = Framework(
    kinds={
        Variable: ("_value", "_leaf", "_constraint", "_regularizer"),
        SeedGenerator: ("state",),
        KerasSaveable: (),
        LearningRateSchedule: (),
        Regularizer: (),
        Constraint: (),
    },
    free=frozenset(_BOOKS.split()),
    methods=("call", "compute_mask", "update_state", "result", "update_step"),
)
