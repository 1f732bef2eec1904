"""What a card says, in Korean and in English."""

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "what": (
            "A language model for Korean and English, built of {family}'s blocks, {parameters} parameters in "
            "{layers} layers of width {width}, a context of {context} tokens, a vocabulary of {vocabulary}."
        ),
        "trained": "This is step {step} of {steps}, after {tokens} tokens.",
        "best": "Of the steps validated so far it has the lowest loss.",
        "step": "This is step {step} of its training.",
        "origin": "Its training began with the weights of {origin}.",
        "limits": (
            "**What it is not:** a base model continues text. It answers no questions, follows no instructions, "
            "and was not taught what it should not say; what it writes may be wrong, and may repeat what stands "
            "in its corpora. Text in other languages, and code, it has hardly seen, unless a corpus below is of "
            "that."
        ),
        "tuned": (
            "Then it was trained on with conversations, in which it answers. Step and tokens are of that training."
        ),
        "tuned_limits": (
            "**What it is not:** it answers in the manner of the conversations below and knows no more than stands "
            "in its corpora; what it says may be wrong, and may repeat what stands there. It was not taught what it "
            "should not say. In other languages, and on code, it has hardly been trained."
        ),
        "chat": "How to talk to it",
        "chat_exported": (
            "The template of conversations stands in `chat_template.jinja` or in the tokenizer's configuration; "
            "servers such as vLLM's take it from there. A text that holds a special token's spelling is refused."
        ),
        "serve": (
            "As a server with OpenAI's interface: on a GPU by vLLM, or on a laptop by llama.cpp, for which "
            "`sllm export --format gguf` writes the file from the model that this folder was made from. The third "
            "command asks either."
        ),
        "beside": "Before and after",
        "base": "base model",
        "this": "this model",
        "on_text": "text, bits/byte",
        "of_answers": "answers, bits/byte",
        "beside_text": (
            "On text and in conversations that were held out. What text takes more bits for was forgotten. Tasks in "
            "percent: the base model was asked by the bare text, this one by its template."
        ),
        "tasks_asked": "Each item was asked as a conversation, by the model's template.",
        "conversations": "Conversations and licences",
        "load": "How to load it",
        "load_exported": (
            "Nothing but Transformers is needed, and no code of this folder runs. `<bos>` stands before a text, "
            "as in training: the tokenizer puts it there."
        ),
        "load_ours": (
            "In this folder, with the sllm that trained the model. The second command writes a directory for "
            "Transformers, which gives the same text."
        ),
        "validation": "Validation",
        "validation_text": (
            "On documents that were held out of training. Loss is in nats per token; loss, perplexity and "
            "accuracy depend on the tokenizer. Bits per byte do not, and compare between models."
        ),
        "overall": "overall",
        "loss": "loss",
        "perplexity": "perplexity",
        "bits_per_byte": "bits/byte",
        "accuracy": "accuracy",
        "tokens": "tokens",
        "tasks": "Tasks",
        "task": "task",
        "metric": "metric",
        "published": "published",
        "few_shot": "few-shot",
        "items": "items",
        "score": "score",
        "guess": "guessing",
        "tasks_text": (
            "In percent, with the standard error, by the tasks, prompts and metrics of lm-eval. A score near "
            "that of guessing says that the model has not learnt the task."
        ),
        "not_measured": "Not measured: {tasks}.",
        "tokenizer": "Tokenizer",
        "tokenizer_text": (
            "Byte-level BPE of {vocabulary} tokens{origin}, with the particles of Korean words apart; text is "
            "brought to Unicode's form NFC. `tokenizer.json` is of Hugging Face's format."
        ),
        "corpora": "Corpora and licences",
        "source": "source",
        "language": "language",
        "home": "from",
        "licence": "licence",
        "documents": "documents",
        "bytes": "bytes",
        "local": "files of whoever trained it",
        "own_text": "sllm's generator",
        "unknown": "unknown",
        "licences_text": (
            "Documents and bytes are those left after cleaning, tokens those of training. The licence of a "
            "collection is that of the collection: each text in it remains its author's. What the licences say, "
            "in short and without any claim to be advice:"
        ),
        "made": "How it was made",
        "version": "By sllm {version}.",
        "commit": "By sllm {version}, commit {commit}{changed}.",
        "changed": ", with changes that were not committed",
        "command": (
            "{command} in the folder of the run makes it again from the same corpora, by the settings at the end "
            "of this page."
        ),
        "learnt": ", learnt from the same corpora",
        "taken": ", that of the model it began with",
    },
    "ko": {
        "what": (
            "한국어와 영어 언어 모델입니다. 처음부터 학습했습니다. {family} 블록, 파라미터 {parameters}개, 너비 "
            "{width}의 층 {layers}개, 문맥 {context}토큰, 어휘 {vocabulary}개."
        ),
        "trained": ("전체 {steps}스텝 가운데 {step}스텝의 모델이며, 토큰 {tokens}개를 보았습니다."),
        "best": "지금까지 검증한 스텝 가운데 손실이 가장 낮습니다.",
        "step": "학습의 {step}스텝입니다.",
        "origin": "{origin}의 가중치에서 학습을 시작했습니다.",
        "limits": (
            "**한계:** 기반(base) 모델이라 글을 이어 쓸 뿐입니다. 질문에 답하거나 지시를 따르지 않으며, 말하지 "
            "말아야 할 것을 배운 적도 없습니다. 쓴 내용은 틀릴 수 있고, 말뭉치에 있던 글을 되풀이할 수 있습니다. "
            "다른 언어나 코드는 아래 말뭉치에 없다면 거의 보지 못했습니다."
        ),
        "tuned": "그 뒤 대화로 이어 학습하여 대화에서 답합니다. 아래의 스텝과 토큰은 이 학습의 것입니다.",
        "tuned_limits": (
            "**한계:** 아래 대화들의 방식으로 답하며, 말뭉치에 있는 것보다 더 알지 못합니다. 말한 내용은 틀릴 수 "
            "있고, 말뭉치에 있던 글을 되풀이할 수 있습니다. 말하지 말아야 할 것을 배운 적은 없습니다. 다른 언어나 "
            "코드는 거의 배우지 않았습니다."
        ),
        "chat": "대화하는 법",
        "chat_exported": (
            "대화 템플릿은 `chat_template.jinja`나 토크나이저 설정에 있으며, vLLM 같은 서버가 그대로 씁니다. "
            "특수 토큰의 철자가 든 글은 거절합니다."
        ),
        "serve": (
            "OpenAI 인터페이스의 서버로 띄우려면: GPU에서는 vLLM, 노트북에서는 llama.cpp. llama.cpp용 파일은 이 폴더의 "
            "바탕이 된 모델에서 `sllm export --format gguf`로 씁니다. 세 번째 명령은 둘 중 어느 쪽에든 묻습니다."
        ),
        "beside": "미세조정 전과 후",
        "base": "기반 모델",
        "this": "이 모델",
        "on_text": "텍스트, 비트/바이트",
        "of_answers": "답변, 비트/바이트",
        "beside_text": (
            "학습에 쓰지 않은 글과 대화에서 쟀습니다. 글에 비트가 더 든다면 그만큼 잊은 것입니다. 과제는 "
            "퍼센트이며, 기반 모델에는 글 그대로, 이 모델에는 템플릿으로 물었습니다."
        ),
        "tasks_asked": "문항마다 모델의 템플릿에 따라 대화로 물었습니다.",
        "conversations": "대화와 라이선스",
        "load": "불러오는 법",
        "load_exported": (
            "Transformers만 있으면 되고, 이 폴더의 코드는 실행되지 않습니다. 학습할 때처럼 글 앞에 `<bos>`가 "
            "오며, 토크나이저가 붙입니다."
        ),
        "load_ours": (
            "이 폴더에서, 모델을 학습한 sllm으로 실행합니다. 두 번째 명령은 같은 글을 내는 Transformers "
            "디렉터리를 씁니다."
        ),
        "validation": "검증",
        "validation_text": (
            "학습에 쓰지 않은 문서에서 쟀습니다. 손실은 토큰당 내트(nat)입니다. 손실, 퍼플렉시티, 정확도는 "
            "토크나이저에 따라 달라지고, 바이트당 비트는 달라지지 않아 모델끼리 비교할 수 있습니다."
        ),
        "overall": "전체",
        "loss": "손실",
        "perplexity": "퍼플렉시티",
        "bits_per_byte": "비트/바이트",
        "accuracy": "정확도",
        "tokens": "토큰",
        "tasks": "과제",
        "task": "과제",
        "metric": "지표",
        "published": "공개된 모델",
        "few_shot": "예시 수",
        "items": "문항",
        "score": "점수",
        "guess": "찍기",
        "tasks_text": (
            "단위는 퍼센트이고 표준오차를 함께 적었습니다. 과제, 프롬프트, 지표는 lm-eval의 것입니다. 찍기와 "
            "비슷한 점수는 모델이 그 과제를 배우지 못했다는 뜻입니다."
        ),
        "not_measured": "재지 않은 것: {tasks}.",
        "tokenizer": "토크나이저",
        "tokenizer_text": (
            "{origin} 바이트 수준 BPE이며 토큰은 {vocabulary}개입니다. 한국어 조사를 따로 떼고, 글은 유니코드 "
            "NFC로 바꿉니다. `tokenizer.json`은 Hugging Face 형식입니다."
        ),
        "corpora": "말뭉치와 라이선스",
        "source": "소스",
        "language": "언어",
        "home": "출처",
        "licence": "라이선스",
        "documents": "문서",
        "bytes": "바이트",
        "local": "학습한 사람의 파일",
        "own_text": "sllm의 생성기",
        "unknown": "알 수 없음",
        "licences_text": (
            "문서와 바이트는 정제하고 남은 것, 토큰은 학습에 쓰는 것입니다. 모음집의 라이선스는 모음집에 대한 "
            "것이고, 그 안의 글은 저마다 글쓴이의 것입니다. 라이선스가 말하는 바를 줄이면 이렇습니다. 법률 "
            "조언은 아닙니다."
        ),
        "made": "만든 방법",
        "version": "sllm {version}.",
        "commit": "sllm {version}, 커밋 {commit}{changed}.",
        "changed": " (커밋하지 않은 변경이 있음)",
        "command": "실행의 폴더에서 {command}을 하면 같은 말뭉치로, 이 글 끝의 설정대로 다시 만들어집니다.",
        "learnt": "같은 말뭉치에서 배운",
        "taken": "시작할 때의 모델에서 가져온",
    },
}
