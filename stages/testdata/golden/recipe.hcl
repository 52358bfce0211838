# Every kind of stage, once plainly and once with most of what its block can
# say. The golden test holds what their keys are made of, byte for byte. It is
# never run.
pipeline "golden" { seed = 7 }

model "base" { source = "embedded://tiny" }

teacher "big" {
  provider    = "openai"
  endpoint    = "http://localhost:8000/v1"
  model_id    = "big"
  temperature = 0.3
}
teacher "own" {
  provider           = "local"
  model              = model.base
  precision          = "bf16"
  top_p              = 0.9
  top_k              = 40
  min_p              = 0.05
  repetition_penalty = 1.1
  max_tokens         = 99
  stop               = ["\n\n", "END"]
}

data "plain" { source = "./rows.jsonl" }
data "full" {
  sources      = ["./*.txt", "./rows.jsonl"]
  format       = "text"
  map          = { text = "body.0", id = "n" }
  split        = "paragraph"
  max_chars    = 400
  invalid_utf8 = "replace"
  shuffle      = true
  limit        = 9
}

synth "plain" {
  teacher   = teacher.big
  documents = data.plain
  method    = "document_to_dialogue"
}
synth "full" {
  teacher            = teacher.own
  prompts            = synth.plain.dataset
  method             = "preference_pairs"
  count              = 12
  self_correct       = true
  attempts           = 2
  chunk_chars        = 900
  context            = true
  reasoning          = "none"
  system             = "Be “brief”.\n"
  pairs              = "judge"
  max_question_chars = 120
  max_answer_chars   = 1200
  grounding          = 0.25
  salt               = 3
  question_prompt    = "Q {text}"
  reasoning_prompt   = "R {text} {question}"
  answer_prompt      = "A {text} {question} {reasoning}"
  check_prompt       = "C {text} {question} {answer}"
  correct_prompt     = "D {text} {question} {answer}"
  judge_prompt       = "J {question} {a} {b}"
}

dedup "plain" { input = data.plain }
dedup "full" {
  input          = synth.plain.dataset
  threshold      = 0.9
  embedder       = "model"
  embedder_model = model.base
  dimensions     = 256
  compare        = "user"
  index          = "exact"
  min_recall     = 0.5
  quality        = "score"
  decontaminate {
    against   = [data.plain, data.full]
    ngram     = 13
    coverage  = 0.75
    answers   = true
    threshold = 0.95
  }
}

mix "plain" {
  source "one" {
    input  = data.plain
    weight = 1
  }
}
mix "full" {
  source "one" {
    input  = dedup.full.dataset
    weight = 0.75
  }
  source "two" {
    input      = data.full
    weight     = 0.25
    max_repeat = 2
  }
  model  = model.base
  tokens = 5000
}

pack "plain" {
  input   = mix.plain.dataset
  model   = model.base
  seq_len = 128
}
pack "full" {
  input    = mix.full.dataset
  model    = model.base
  seq_len  = 256
  strategy = "wrapped"
  overflow = "drop"
  loss     = "all"
}

sft "plain" {
  base = model.base
  data = pack.plain.dataset
}
sft "full" {
  base          = model.base
  data          = pack.full.dataset
  eval_data     = pack.plain.dataset
  init          = "random"
  epochs        = 3
  max_steps     = 50
  batch_size    = 2
  grad_accum    = 4
  lr            = 1e-3
  schedule      = "linear"
  warmup_steps  = 5
  optimizer     = "adamw_8bit"
  weight_decay  = 0.01
  betas         = [0.9, 0.95]
  eps           = 1e-6
  max_grad_norm = 0.5
  precision     = "bf16"
  adapter "none" {
  }
}

dpo "plain" {
  base = sft.plain.model
  data = synth.full.dataset
}
dpo "full" {
  base         = model.base
  data         = synth.full.dataset
  eval_split   = 0.2
  loss         = "ipo"
  beta         = 0.2
  max_len      = 300
  epochs       = 2
  batch_size   = 3
  lr           = 5e-6
  schedule     = "constant"
  warmup_ratio = 0.1
  adapter "lora" {
    rank    = 8
    alpha   = 32
    targets = ["q_proj", "v_proj"]
    dropout = 0.1
    rslora  = true
  }
}

eval "plain" {
  model = dpo.plain.model
  suite "one" { data = data.plain }
}
eval "full" {
  for_each  = { a = sft.plain.model, b = sft.full.model }
  model     = each.value
  baseline  = model.base
  batch     = 512
  precision = "bf16"
  suite "one" {
    data       = data.plain
    type       = "generate"
    max_tokens = 16
    few_shot   = 2
    normalizer = "number"
    limit      = 10
    window     = 64
  }
  needle {
    lengths  = [128, 256]
    depths   = [0, 1]
    per_cell = 4
    style    = "word"
    keys     = 2
    format   = "plain"
    haystack = data.plain
  }
  gate "g" {
    condition     = self.metrics["one.f1"] > 0
    error_message = "it knows nothing"
  }
}

select "full" {
  from   = eval.full
  metric = "one.f1"
  mode   = "max"
}

export "plain" {
  model   = select.full.model
  formats = ["safetensors"]
}
export "full" {
  model      = dpo.full.model
  formats    = ["peft", "gguf:q8_0"]
  dtype      = "bf16"
  name       = "full"
  base_model = "org/base"
  data       = [data.plain, data.full]
  metrics    = [eval.plain.metrics]
  card       = { licence = "apache-2.0" }
  path       = "./out"
}

exec "plain" {
  command = ["sort", "rows.jsonl"]
  files   = ["rows.jsonl"]
}
exec "full" {
  command  = ["sh", "rank.sh", "--top", "10"]
  files    = ["rank.sh"]
  inputs   = { rows = data.plain, model = model.base, metrics = eval.plain.metrics }
  datasets = ["ranked"]
  outputs  = ["log"]
  env      = ["LANG"]
  timeout  = "10m"
  revision = "2"
}
