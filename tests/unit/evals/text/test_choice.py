"""Answers to multiple-choice questions, and the option that a careful person takes each for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.evals.text.choice import UNPARSED, read_choice
from mmpref.evals.text.options import options_of

ASKED = {
    "wings": ("Are the butterfly's wings closer to being open or closed?", {"A": "Open", "B": "Closed"}),
    "sofa": ("What is on the sofa?", {"A": "a dog", "B": "a cat", "C": "a horse", "D": "two birds"}),
    "yes_no": ("Are the wings open?", {"A": "Yes", "B": "No"}),
    "rider": (
        "What is the relationship between the man and the horse?",
        {"A": "on", "B": "riding", "C": "beside", "D": "holding"},
    ),
    "long": (
        "",
        {
            "A": "Yes, a red bench, a dog and a lamp",
            "B": "No, but a red bench, a cat and a lamp",
            "C": "No, but a blue bench, a dog and a lamp",
            "D": "No, but a red bench, a dog and a tree",
            "E": "No, but a red bench, a dog and a bike",
        },
    ),
    "count": ("How many dogs are there?", {"A": "2", "B": "3", "C": "4", "D": "5"}),
    "side": ("Is the dog facing left or right from the camera's perspective?", {"A": "Left", "B": "Right"}),
    "sentences": ("", {"A": "The man is on the left", "B": "The man is on the right"}),
    "door": ("", {"A": "Wide open", "B": "Open"}),
    "pet": ("", {"A": "The dog is brown", "B": "The dog is black"}),
    "colour": ("", {"A": "Red", "B": "Green", "C": "Blue", "D": "Yellow"}),
    "dogs": ("", {"A": "One", "B": "Two", "C": "Three", "D": "Four or more"}),
    "true_false": ("", {"A": "True", "B": "False"}),
    "none_of_these": ("", {"A": "An umbrella", "B": "A hat", "C": "None of the above"}),
    "place": ("", {"A": "in front of", "B": "behind", "C": "on top of", "D": "next to"}),
}
READ = {
    ("wings", "B"): [
        "B",
        "(b)",
        "b",
        "B.",
        "(B) Closed",
        "B. Closed",
        "b) closed",
        "Closed",
        "closed.",
        "The answer is B",
        "The correct answer is (b).",
        "**B**",
        "Answer: B",
        "I'm not sure, but I think B",
        "I think it's B.",
        "Probably B",
        "Option A says open, option B says closed. The wings are folded. Therefore, the answer is B.",
        "<think>A? no, B</think>\nB",
        "<answer>B</answer>",
        "The answer is \\boxed{B}",
        '{"answer": "B"}',
        '```json\n{"answer": "B. Closed"}\n```',
        "B\n\nQuestion: what else? \nAnswer: A",
        "B\nUSER: and now? ASSISTANT: A",
        "答案是B",
        "答案：B",
        "选B",
        "La respuesta es B",
        "La réponse est B.",
        "Die Antwort ist B",
        "Ответ: B",
        "答えはBです",
        "정답은 B입니다",
        "الإجابة هي B",
        "A. Wait, actually the answer is B.",
        "Sure! The answer is B.",
        "The wings look folded.\nB",
    ],
    ("wings", "unparsed"): [
        "A. Closed",
        "A. The wings are closed.",
        "not open",
        "A or B",
        "Both A and B",
        "It could be B",
        "maybe B",
        "",
        "I cannot see the image.",
        "<think>\nIt is open so A",
        "The answer is A. The answer is B.",
        "B\nExplanation: the wings are closed. So the answer is A",
    ],
    ("wings", "A"): [
        "The butterfly's wings are closer to being open.",
        "The wings are open, not closed.",
        "The wings are not closed but open",
    ],
    ("sofa", "A"): [
        "A dog is there",
        "A dog is on the sofa.",
        "a",
        "A",
        "A.",
        "A because it barks",
        "A is correct",
        "F. a dog",
        "I think a dog.",
    ],
    ("sofa", "B"): [
        "A cat is there",
        "Not A, but B",
        "It is B, not A.",
        "The correct option is B: a cat",
        "Ⓑ",
        "Ｂ",
        "option b",
        "Answer B",
        "answer:b",
        "B. Because the cat sits near a dog",
        "The answer is B because there is no dog",
    ],
    ("sofa", "C"): [
        "A horse",
        "There is a horse on the sofa",
        "the answer is a horse",
        "The answer is A horse",
        "B is incorrect, so the answer is C.",
        "I would choose option c",
        "C: a horse",
        "C - a horse",
        "C, a horse",
    ],
    ("sofa", "unparsed"): [
        "A person is there",
        "B is wrong",
        "Not B.",
        "Neither A nor B",
        "B) a cat\nC) a horse",
        "E",
        "I",
        "A, B",
        "A and B",
        "A/B",
        "None of the above",
        "The correct option is B: a dog",
        "It is either a dog or a cat",
        "A dog and a cat",
    ],
    ("sofa", "D"): [
        "There are 2 birds.",
        "I'd go with D.",
    ],
    ("yes_no", "A"): [
        "Yes",
        "A. Yes",
        "Yes.",
        "yes, they are",
        "(a)",
        "a) Yes",
        "The wings are open.",
    ],
    ("yes_no", "B"): [
        "No, they are closed.",
        "(b) No",
        "No",
        "I don't think so",
        "b",
    ],
    ("yes_no", "unparsed"): [
        "A. No",
        "Yes and no",
    ],
    ("rider", "B"): [
        "B)",
        "(B",
        "B:",
        "  b  ",
        "B\n",
        "B.\n",
        "[B]",
        "{B}",
        "'B'",
        '"B"',
        "`B`",
        "<B>",
        "Riding",
        "The man is riding the horse.",
        "riding.",
        "The man is riding, not holding, the horse.",
        "The correct answer is B. riding.",
        "The correct answer is: B. riding",
        "The correct answer is:\n\nB. riding",
        "Answer:\nB",
        "The answer is **B. riding**.",
        "The answer is B, as the man is on top of the horse.",
        "B. The man is riding the horse while holding the reins.",
        "Based on the image, the man is on the horse, so the best option is B.",
        "ANSWER: B",
        "answer is b",
        "My answer: B",
        "I choose B",
        "I select option (B).",
        "Option B is correct.",
        "B is the correct answer.",
        "(B) is correct",
        "It is B",
        "It's b.",
        "Definitely B!",
        "Most likely B.",
        "likely B",
        "B, I think.",
        "I guess B",
        "My guess is B",
        "B?",
        "A. on\nB. riding\nC. beside\nD. holding\nAnswer: B",
        "C is not right. The answer is B.",
        "It's not C, it's B",
        "B rather than C",
        "B instead of C",
        "<think>Let me see. A? B? I think C.</think>\n\nB",
        "I think A but </think> B",
        "<answer>(B)</answer>",
        "<answer>riding</answer>",
        "<think>x</think><answer>B</answer>",
        "$\\boxed{B}$",
        "\\boxed{\\text{B}}",
        '{"choice": "B", "reason": "C is wrong"}',
        "{'answer': 'B'}",
        "Final Answer: B",
        "### Answer\nB",
        "**Answer:** B",
        "Reasoning: C looks plausible. Final answer: B",
        "Step 1: look at A. Step 2: exclude C. So B.",
        "B\n\nB\n\nB\n\nB",
        "B B B B B",
        "B. riding B. riding B. riding",
        "B\n\nUser: What else?\nAssistant: C",
        "B###Question: ...\nC",
        "B<|im_end|>C",
        "B</s>",
        "选择B",
        "正确答案是：B",
        "应该选B。",
        "B选项",
        "La respuesta correcta es la B.",
        "Respuesta: B",
        "La bonne réponse est B.",
        "Réponse : B",
        "Die richtige Antwort ist B.",
        "Antwort B",
        "A resposta correta é a letra B",
        "Resposta: B)",
        "La risposta corretta è B",
        "Правильный ответ: B",
        "Ответ — B",
        "正解はBです。",
        "答えは B",
        "정답: B",
        "答案：Ｂ",
        "उत्तर: B",
        "सही उत्तर B है",
        "As seen in the image, the man is riding.",
        "Based on the image, the correct answer is:\n\n**B. riding**",
        "The man in the image is riding the horse, so the correct option is B.",
        "B\n\nThe man is clearly riding the horse, which is visible in the image.",
        "Each option:\nA. on - The man is on it.\nB. riding - yes.\nC. beside - no.\nD. holding - no.\n\nSo B.",
        "Let's analyze each option:\n- A: on. Possible.\n- B: riding. Fits best.\n\nAnswer: B",
        "We look at the image. The man sits on the horse. Therefore, the best choice is (B) riding.",
        "Option (B)",
        "The option B",
        "I'd say B) riding",
        "I pick b",
        "Correct answer: b)",
        "The answer would be B",
        "It should be B.",
        "Should be B",
        "Looks like B",
        "That would be option B.",
        "The answer is not A. It is B.",
        "Neither A, C nor D. The answer is B.",
        "A is incorrect, C is incorrect, D is incorrect. B is correct.",
        "I would rule out A and C. Between B and D, B is more likely.",
        "Either B or D, but probably B.",
        "A. No wait, B.",
        "As an AI, I can't view images, but B",
        "<|begin_of_box|>B<|end_of_box|>",
        "<think>\n\n</think>\n\nB",
        "◁think▷hmm A◁/think▷B",
        "Answer: <answer>B</answer>",
        "[[B]]",
        "\\(B\\)",
        "\\text{B}",
        "**Final Answer**: $\\boxed{\\text{(B)}}$",
        "**Answer: B. riding**",
        "Answer:B",
        "ANS: B",
        "ans b",
        "选项B是正确的",
        "我认为答案是 B。",
        "B。",
        "B、骑",
        "答案：(B)",
        "正解: B",
        "La opción correcta es B.",
        "la opcion b",
        "Lösung: B",
        "Option B est correcte",
        "A alternativa correta é B",
        "la risposta è la B",
        "Câu trả lời là B",
        "Đáp án: B",
        "Cevap B",
        "Jawaban: B",
        "b.",
        "(b).",
        "B,",
        "B;",
        "B - because C is wrong",
        "B (not C)",
        "Could be A; I would go with B.",
        "A person riding a horse",
    ],
    ("rider", "unparsed"): [
        "The man is not riding the horse",
        "Sorry, I can't help with that.",
        "As an AI language model I cannot see",
        "There's no image provided.",
        "I am not sure.",
        "A man and a horse",
        "A man rides a horse",
        "It may be B or C.",
        "B or C",
        "B and C",
        "B & C",
        "B/C",
        "Both B and C are correct",
        "Either B or C",
        "B, C",
        "ABCD",
        "A B C D",
        "B C",
        "A. on\nB. riding\nC. beside\nD. holding",
        "Not C",
        "All of the above",
        "Yes",
        "no",
        "1",
        "2",
        "<think>stuff",
        "B\nC\nD",
        "🤷",
        "...",
        "—",
        "I",
        "a man",
        "It is a man",
        "is a man",
        "A - riding",
        "B: C",
        "Vitamin B",
        "I'm torn between B and D.",
        "B... or maybe C",
        "B? C?",
        "The image is unclear, so I cannot answer.",
        "Ответ: В",
        "B A C D",
        "AB",
        "B\tC",
        "Not sure, maybe B?",
    ],
    ("rider", "A"): [
        "a",
        "A: on",
        "A) on",
        "A - on",
        "A on",
        "A man is on a horse.",
    ],
    ("count", "A"): [
        "2",
        "Two",
    ],
    ("count", "B"): [
        "There are three dogs",
        "B",
        "B. 3",
        "B. three",
        "three",
    ],
    ("count", "unparsed"): [
        "A. 3",
        "I see 2 dogs and 3 cats",
        "12",
    ],
    ("count", "C"): [
        "I count 4.",
    ],
    ("side", "A"): [
        "Left",
        "to the left",
        "(a)",
        "(a) Left",
        "a left",
        "facing left",
    ],
    ("side", "B"): [
        "The dog is facing right.",
        "b) Right",
        "Right.",
    ],
    ("side", "unparsed"): [
        "The dog is facing to the left side of the image, right?",
        "(a) Right",
    ],
    ("sentences", "A"): [
        "The man is on the left.",
    ],
    ("sentences", "B"): [
        "the man is on the right side",
        "B. The man is on the right.",
    ],
    ("door", "A"): [
        "Wide open",
        "The door is wide open.",
    ],
    ("door", "B"): [
        "Open",
        "The door is open.",
    ],
    ("long", "A"): [
        "A",
    ],
    ("long", "E"): [
        "(E)",
        "E",
        "e",
    ],
    ("long", "C"): [
        "No, but a blue bench, a dog and a lamp.",
        "C) No, but a blue bench, a dog and a lamp",
    ],
    ("long", "unparsed"): [
        "Yes",
    ],
    ("rider", "C"): [
        "B; no, wait, C.",
    ],
    ("colour", "A"): [
        "Red",
        "The car is red.",
        "red car",
        "a) red",
    ],
    ("colour", "unparsed"): [
        "It's green and yellow.",
        "It is not red.",
        "It might be blue",
        "Reddish",
        "blue, option A",
    ],
    ("colour", "C"): [
        "not red but blue",
        "It is blue rather than green.",
        "It appears to be blue",
        "BLUE",
        "blue.",
        "The color of the car is (C) Blue",
        "C Blue",
        "Blue (C)",
        "Blue - C",
        "blue, option C",
    ],
    ("dogs", "A"): [
        "One",
        "1",
        "There is one dog",
    ],
    ("dogs", "B"): [
        "There are 2 dogs.",
    ],
    ("dogs", "D"): [
        "four or more",
    ],
    ("dogs", "unparsed"): [
        "Four",
    ],
    ("true_false", "A"): [
        "True",
        "This is true.",
    ],
    ("true_false", "B"): [
        "false.",
    ],
    ("none_of_these", "C"): [
        "None of the above",
        "none of the above.",
        "C. None of the above",
    ],
    ("none_of_these", "A"): [
        "an umbrella",
        "umbrella",
    ],
    ("none_of_these", "B"): [
        "The person is holding a hat",
    ],
    ("place", "A"): [
        "in front of",
        "The cat is in front of the dog",
    ],
    ("place", "B"): [
        "It's behind the tree.",
    ],
    ("place", "D"): [
        "next to the tree",
    ],
    ("place", "unparsed"): [
        "The cat is on top of the table, next to a lamp",
    ],
    ("pet", "A"): [
        "The dog is brown",
    ],
    ("pet", "B"): [
        "The dog is black.",
        "The dog is not brown; the dog is black.",
    ],
    ("pet", "unparsed"): [
        "black",
    ],
}
CASES = [(asked, letter, text) for (asked, letter), texts in READ.items() for text in texts]


def read(asked, text):
    question, options = ASKED[asked]
    return read_choice(text, options, question)


@pytest.mark.parametrize("asked", ASKED)
def test_an_answer_is_read_as_the_option_that_people_take_it_for(asked):
    cases = [(text, letter) for name, letter, text in CASES if name == asked]
    assert [(text, read(asked, text)) for text, _ in cases] == cases


def test_spaces_and_finished_thinking_change_nothing():
    for asked, letter, text in CASES:
        assert read(asked, f"  \n{text}  ") == letter
        assert read(asked, f"<think>A? C? The answer is D.</think>\n{text}") == letter


AROUND = (
    "Sure, {}", "Sure! {}", "Answer: {}", "**{}**", "{}\n\nUSER: next question?", "Based on the image, {}",
    "{} I hope this helps!", "{} ",
)  # fmt: skip


@pytest.mark.parametrize("around", AROUND)
def test_courtesies_change_nothing(around):
    marked = ("<", "{", "[", "`", "$", "\\", "◁")  # these are the answer, wherever they stand
    plain = [case for case in CASES if case[2].strip() and not case[2].startswith(marked)]
    read_as = [(asked, text, read(asked, around.format(text))) for asked, _, text in plain]
    assert read_as == [(asked, text, letter) for asked, letter, text in plain]


def test_words_about_the_image_are_no_option_but_those_of_an_option_count():
    assert read("rider", "In the image, the man is riding the horse.") == "B"
    options = {"A": "A dog in the image", "B": "A dog on the sofa", "C": "Nothing"}
    assert read_choice("There is a dog in the image", options) == "A"
    assert read_choice("In this picture there is a dog on the sofa.", options) == "B"


LETTERS = st.sampled_from("ABCD")


@given(
    LETTERS,
    st.sampled_from(
        ["{}", "({})", "{}.", "The answer is {}.", "Answer: {}", "**{}**", "I think it is {}.", "答案是{}"]
    ),
    st.sampled_from(["", "Sure! ", "Sure, ", "Certainly. "]),
    st.booleans(),
)
def test_a_letter_reads_alike_in_every_dress(letter, dress, opening, small):
    text = opening + dress.format(letter.lower() if small and not opening else letter)
    assert read("rider", text) == letter


@given(
    LETTERS,
    st.sampled_from(["Not {}.", "It is not {}", "The answer is not {}.", "{} is wrong.", "Option {} is incorrect"]),
)
def test_a_denied_letter_is_never_the_answer(letter, denial):
    assert read("rider", denial.format(letter)) == UNPARSED


@given(st.sampled_from(["on", "riding", "beside", "holding"]), st.sampled_from(["is not", "isn't", "is never"]))
def test_a_denied_option_is_never_the_answer_nor_turned_round(word, denial):
    assert read("rider", f"The man {denial} {word} the horse.") == UNPARSED
    assert read("wings", "The wings are not open.") == UNPARSED


@given(st.text(max_size=60))
def test_any_text_is_read_as_an_option_or_not_at_all(text):
    assert read("rider", text) in {*"ABCD", UNPARSED}
    assert read_choice(text, {}) == UNPARSED


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("(a) Open (b) Closed", {"A": "Open", "B": "Closed"}),
        ("(a) Yes\n(b) No", {"A": "Yes", "B": "No"}),
        ("(A) 1 (one) (B) 2 (two)", {"A": "1 (one)", "B": "2 (two)"}),
        (
            "Which?\nA. x y\nB. z\nAnswer with the option's letter from the given choices directly.",
            {"A": "x y", "B": "z"},
        ),
        ("Which?\nA) x\nB) y\nC) z", {"A": "x", "B": "y", "C": "z"}),
        ("Which? A: x B: y", {"A": "x", "B": "y"}),
        ("Is it A or B?", {}),
        ("(a) Open", {}),
        ("", {}),
    ],
)
def test_the_options_of_a_question_are_found(text, options):
    assert options_of(text) == options
