"""Text that is what a JSON Schema says.

python constraint.py path/to/model
"""

import json
import sys

import umrt

ANIMAL = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "legs": {"type": "integer", "minimum": 0, "maximum": 8},
        "kind": {"enum": ["bird", "cat", "dog", "spider"]},
    },
    "required": ["name", "legs", "kind"],
    "additionalProperties": False,
}

with umrt.Model.open(sys.argv[1]) as model, model.context() as context:
    animal = model.constraint(json_schema=ANIMAL)
    text = context.generate("My animal: ", constraint=animal, max_tokens=100).text()
    print(json.loads(text))
