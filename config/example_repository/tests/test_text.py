"""What tally.text promises."""

import unittest

from tally.text import word_count


class WordCount(unittest.TestCase):
    def test_words_are_counted(self):
        self.assertEqual(word_count("the quick brown fox"), 4)

    def test_blanks_are_not_words(self):
        self.assertEqual(word_count("  two\n words  "), 2)

    def test_an_empty_text_has_no_words(self):
        self.assertEqual(word_count(""), 0)


if __name__ == "__main__":
    unittest.main()
