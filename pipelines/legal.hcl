# A real model on real text: SmolLM2-135M-Instruct reads 71 licences, asks and
# answers questions about them, and is tuned on what it wrote and on the
# licences themselves. Under 30 minutes on two cores; docs/legal.md has the
# figures.
#
#   pipelines/legal/fetch_model.sh
#   go run ./cmd/pipe run pipelines/legal.hcl
#
# Where a model hub can be reached, the script is not needed:
#   --var model=hf://HuggingFaceTB/SmolLM2-135M-Instruct
#
# To try the road in about three minutes:
#   --var dialogues=12 --var steps=3 --var limit=6 --var needles=1

pipeline "legal" {
  seed        = 1
  description = "Questions about licence clauses, answered from the clause"
}

variable "model" {
  default     = "./legal/cache/SmolLM2-135M-Instruct.Q4_1.gguf"
  description = "SmolLM2-135M-Instruct: a GGUF file, a directory, or a hub id"
}

variable "dialogues" {
  default     = 120
  description = "Questions to ask the teacher for"
}

variable "steps" {
  default     = 0
  description = "Optimizer steps of sft and dpo; 0: all of their epochs"
}

variable "limit" {
  default     = 0
  description = "Items of each suite; 0: all"
}

variable "needles" {
  default     = 4
  description = "Prompts of each cell of the needle grid"
}

variable "out" {
  default     = "./out/legal"
  description = "Directory of the exported model"
}

# Teacher and student are the same model: what is tuned is how it answers, not
# what it knows.
model "smol" {
  source = var.model
}

teacher "smol" {
  provider    = "local"
  model       = model.smol
  model_id    = "SmolLM2-135M-Instruct"
  temperature = 0.4
  max_tokens  = 160
  concurrency = 16
}

# Passages, shuffled, so that a few of them come from many licences.
data "passages" {
  source    = "./legal/corpus/*.txt"
  split     = "paragraph"
  max_chars = 500
  shuffle   = true
}

data "general" {
  source = "./legal/general.jsonl"
}

# The tests were written for this project. Their clauses are invented, or are
# quoted from licences that are not in the corpus.
data "choice" {
  sources = ["./legal/questions/choice.jsonl", "./legal/questions/licence_choice.jsonl"]
}

data "closed" { # about licences in general: no passage is given
  source = "./legal/questions/closed.jsonl"
}

data "answer" {
  sources = ["./legal/questions/answer.jsonl", "./legal/questions/licence_answer.jsonl"]
}

data "prose" { # paragraphs of licences that are not in the corpus
  source = "./legal/prose.jsonl"
}

synth "cot" {
  teacher      = teacher.smol
  documents    = data.passages
  method       = "document_to_dialogue"
  count        = var.dialogues
  chunk_chars  = 500
  attempts     = 6 # the teacher often misses
  context      = true
  self_correct = true

  # A teacher of 135 million parameters asks about a text more often than about
  # its own task when it is to write several questions and the text comes last;
  # the first that is grounded in the passage is taken. Evidence and answer in
  # the passage's words keep it from inventing.
  question_prompt  = "Write three questions that can be answered from this text:\n\n{text}"
  reasoning_prompt = "{text}\n\nQuestion: {question}\n\nCopy the one sentence of the text above that answers the question."
  answer_prompt    = "{text}\n\nQuestion: {question}\n\nAnswer the question with a few words from the text above."
}

dedup "cot" {
  input     = synth.cot.dataset
  threshold = 0.95
  decontaminate {
    against = [data.choice, data.closed, data.answer, data.prose]
  }
}

dedup "passages" { # licences quote each other
  input     = data.passages
  threshold = 0.9
  decontaminate {
    against = [data.choice, data.closed, data.answer, data.prose]
  }
}

synth "prefs" {
  teacher = teacher.smol
  prompts = dedup.cot.dataset
  method  = "preference_pairs"
  count   = var.dialogues
}

mix "train" {
  model = model.smol
  source "cot" {
    input  = dedup.cot.dataset
    weight = 0.6
  }
  source "licences" {
    input  = dedup.passages.dataset
    weight = 0.32
  }
  source "general" { # keeps what the base could do
    input  = data.general
    weight = 0.08
  }
}

pack "train" {
  input   = mix.train.dataset
  model   = model.smol
  seq_len = 512
}

sft "tuned" {
  base                   = model.smol
  data                   = pack.train.dataset
  eval_split             = 0.1
  epochs                 = 2
  max_steps              = var.steps
  batch_size             = 1
  grad_accum             = 2
  lr                     = 2e-4
  gradient_checkpointing = true
  checkpoint_every       = 10
  adapter "dora" {
    rank    = 16
    alpha   = 32
    targets = ["all-linear"]
  }
}

dpo "final" {
  base                   = sft.tuned.model
  data                   = synth.prefs.dataset
  eval_split             = 0.2
  loss                   = "sigmoid"
  beta                   = 0.1
  lr                     = 2e-5
  epochs                 = 1
  max_steps              = var.steps
  grad_accum             = 2
  gradient_checkpointing = true
}

eval "final" {
  model = dpo.final.model
  suite "choice" {
    data  = data.choice
    limit = var.limit
  }
  suite "closed" {
    data  = data.closed
    limit = var.limit
  }
  suite "answer" {
    data       = data.answer
    max_tokens = 32
    limit      = var.limit
  }
  suite "prose" {
    data  = data.prose
    limit = var.limit
  }
  needle {
    lengths  = [256, 512, 1024]
    depths   = [0, 0.5, 1]
    per_cell = var.needles
  }
  gate "no_forgetting" {
    condition     = self.metrics["prose.nll"] <= base.metrics["prose.nll"] + 0.1
    error_message = "the model forgot licence prose"
  }
}

export "release" {
  model      = dpo.final.model
  formats    = ["peft", "safetensors", "gguf:q8_0"]
  name       = "SmolLM2-135M-legal"
  base_model = "HuggingFaceTB/SmolLM2-135M-Instruct"
  path       = var.out
  data       = [mix.train.dataset, synth.prefs.dataset]
  metrics    = [sft.tuned.metrics, dpo.final.metrics, eval.final.metrics]
}
