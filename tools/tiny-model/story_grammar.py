"""Story templates.

In a template `{a|b}` is a choice, `[text]` an optional part and `$slot` a fact of the story, so that names,
pronouns, objects and places stay the same from the first sentence to the last. `corpus.py` fills them.

Slots: $N hero, $F friend, $he $He $him $his $His $himself and $fe $Fe $fim $fis $Fis their pronouns, $kind $fkind,
$trait $ftrait, $thing ("red kite"), $a_thing ("a red kite"), $object ("kite"), $place ("the forest"),
$at ("in the forest"), $far and $at_far a second place, $skill, $fear, $structure, $plant, $food.
"""

from __future__ import annotations

from dataclasses import dataclass

OPENINGS = (
    "Once upon a time, there was $a_hero named $N. $N lived $at{| with $his family| in a {small|cozy|little} house}.",
    "Once upon a time, $a_hero named $N lived $at.[ $He liked {the sun|the birds|the flowers|the quiet mornings} there.]",
    "There once was $a_hero {called|named} $N, who lived $at.[ Everyone {knew|liked} $him.]",
    "{Long ago|Many years ago|Once}, $at, there lived $a_hero. {The $kind's name|$His name} was $N.",
    "$N was $a_hero. $He lived $at and {loved|liked} to {play outside|explore|look at the clouds|tell jokes|help others}.",
    "In a {small|little|cozy|tiny} house $at lived $a_hero named $N.[ $He was {often|almost always} in a good mood.]",
    "This is the story of $a_hero named $N. $N lived $at{|, where the {grass was green|days were long|birds sang all day}}.",
)

TIMES = ("One {sunny|bright|windy|cold|warm|quiet|cloudy|rainy|fine|spring|summer} {day|morning|afternoon},",)

ENDINGS = (
    "From that day on, $N and $F were best friends.",
    "And they all lived happily ever after.",
    "That night, $N {fell asleep|went to bed} with a {big |happy |}smile.",
    "$N and $F {laughed|danced|played} together until the sun went down.",
    "When the {moon|first star} came out, $N {went home|walked home} {feeling happy|with a full heart}.",
    "After that, $N and $F {met|played together} every day.",
    "It was the best day $N had ever had.",
    "$N told $his family all about it, and they were very proud of $him.",
    "Then they shared {some |a little |}$food and {watched the stars|told stories by the fire|sang songs}. The end.",
)

THANKS = (
    '"Thank you{, $F|}!" said $N.[ "You are a {good|true|wonderful|kind} friend."]',
    '$N {hugged|smiled at} $F. "{Thank you so much|Thank you for helping me|I am so glad I met you}," $he said.',
    '"I could not have done it without you," said $N{| to $F}.[ $F {smiled|blushed|laughed}.]',
)

MEETINGS = (
    "{Just then|Soon|After a while|On the way}, $he met $a_friend named $F.",
    "{Just then|Soon|A little later}, $a_friend came by. {The $fkind's|$Fis} name was $F.",
    "$He {saw|found} $a_friend {sitting under a tree|resting on a rock|walking along the path}. $Fis name was $F.",
    "$A_friend named $F {heard $him|saw $him} and {came closer|stopped to look}.",
)


@dataclass(frozen=True)
class Plot:
    """One kind of story: `request` is how a user asks for it, `beats` are its paragraphs in order.

    A beat is a choice of templates. `@time`, `@meet`, `@thank` and `@end` stand for the shared templates above.
    """

    name: str
    request: tuple[str, ...]
    beats: tuple[tuple[str, ...], ...]


LOST_OBJECT = Plot(
    "lost object",
    (
        "who lost $a_thing",
        "who loses $his $object",
        "who cannot find $his $thing",
        "looking for a lost $object",
    ),
    (
        (
            "$N had $a_thing. $He {loved it very much|took it everywhere|played with it every day}.",
            "$N's favorite thing was $a_thing. [It was a gift from $his {grandmother|grandfather|mother|father}. ]$He never went out without it.",
            "$His {grandmother|grandfather|mother|father} had given $him $a_thing, and $N {loved it|kept it safe} more than anything.",
        ),
        (
            "@time $N {woke up|looked around} and the $object was gone! $He looked {under the bed|behind the door|in every corner} and {in the box|under the table|outside}, but {it was not there|$he could not find it}. $N {was very sad|began to cry|felt like crying}.",
            '@time $N went to play $at_far. When $he came home, the $thing was {gone|missing}. "Oh no! Where is my $object?" {cried|said} $N. $He {felt very sad|did not know what to do}.',
            "@time a strong wind {blew|came} and carried the $thing away. $N ran after it, but the wind was too fast. {Soon the $object was gone|$He could not see the $object anymore}. $He sat down and {cried|sighed}.",
        ),
        (
            '@meet "Why are you {sad|crying}?" asked $F. "I lost my $thing," said $N. "{Do not worry|Do not cry}," said $F. "{I will help you|We can look for it together|Two can search better than one}."',
            '@meet "What is wrong?" asked the $fkind. "My $thing is gone, and I {miss it|cannot find it}," said $N. "{Let us|We can} look for it together," said $F.',
        ),
        (
            "They looked {behind the trees|under the leaves|near the rocks} and {in the tall grass|along the path}. Then they went to $far. There, {under a bush|behind a big stone|high in a tree|next to a log}, $F saw something $look. It was the $object!",
            'Together they walked to $far. They {searched|looked} {all day|for a long time}. [$N almost gave up, but $F said, "{Keep trying|Do not give up}." ]At last they {saw|found} the $thing {under a bush|behind a big stone|in the tall grass|next to an old log}.',
        ),
        ("@thank",),
        (
            "$N held the $object tight and promised to take better care of it. @end",
            "$N let $F play with the $thing too. @end",
            "$N learned that {a friend can make any problem smaller|it is good to ask for help}. @end",
        ),
    ),
)

FOUND_OBJECT = Plot(
    "found object",
    ("who found $a_thing", "who finds $a_thing", "who gives back a lost $object", "and a lost $object"),
    (
        (
            "@time $N was walking $at_far when $he saw something {in the grass|under a tree|on the path|behind a rock}. It was $a_thing!",
            "@time $N went to $far. Something {caught $his eye|was lying on the ground}. $He {picked it up|looked closer}. It was $a_thing.",
        ),
        (
            '"What a {pretty|lovely|nice} $object," said $N. $He wanted to keep it. But then $he thought, "{Someone must miss it|This is not mine|Somebody may be looking for it}."',
            '$N {loved|liked} the $object at once. "I wish it were mine," $he said. But $he knew that {it belonged to someone else|someone must be sad without it}.',
        ),
        (
            'So $N {walked from house to house|asked everyone $he met}. "Is this your $object?" $he asked{| again and again}. "No, it is not mine," said {the others|everyone}. [$N was tired, but $he did not stop. ]@meet $F looked {very sad|worried}.',
            "$N {set out|went} to find the owner. $He {asked the birds|looked for tracks} and {followed the path|walked a long way}. @meet {The $fkind was crying|$F looked very sad}.",
        ),
        (
            '"I lost my $thing," said $F. "Is this it?" asked $N and held out the $object. "Yes! {That is my $object|You found it}!" {cried|said} $F{| and jumped for joy}.',
            '"What is wrong?" asked $N. "I cannot find my $thing," said $F. $N {smiled|laughed} and gave $fim the $object. $F {could not believe it|was so happy}. "{Thank you|You are so kind}!" $fe said.',
        ),
        (
            "To thank $N, $F {gave $him some|shared some} $food. $N learned that {being honest feels good|it is better to give than to keep}. @end",
            'From then on, $F let $N play with the $object {whenever $he wanted|every day}. "{Good friends share|It is more fun with two}," said $F. @end',
            "$N felt {warm inside|happy and proud}. {Giving the $object back was better than keeping it|$He had lost a $object but found a friend}. @end",
        ),
    ),
)

LEARN_SKILL = Plot(
    "learn skill",
    ("who wanted to learn to $skill", "who learns to $skill", "who could not $skill", "who wants to $skill"),
    (
        (
            "$N had a {dream|big wish}. $He wanted to {learn to |}$skill. But {it was very hard|every time $he tried, it went wrong}.",
            "More than anything, $N wanted to $skill. [$He thought about it all day. ]But $he did not know how.",
            "All of $his friends could $skill, but $N could not. It made $him {sad|feel small}.",
        ),
        (
            '@time $N tried and tried. $He {fell down|made a mistake} {once|again and again}. "I will never {do it|learn it}," $he said and {sighed|sat down}.',
            '@time $N went to $far to practice. [Some others laughed at $him. ]"It is too hard for me," said $N.',
        ),
        (
            '@meet "I can teach you to $skill," said $F. "{First|At first} it is hard, but {each day it gets easier|you must practice every day}."',
            '@meet "Do not give up," said the $fkind. "I could not $skill {either|at first}. {Let me show you|I will help you}."',
        ),
        (
            "So they {practiced|worked} every {day|morning}. $F gave $N $a_thing {for good luck|to make $him smile}. On the first day, $N {made many mistakes|was still afraid}. On the second day, it went a little better. {On|And on} the {third|fifth|last} day, $N could $skill!",
            "Every {day|evening}, $F helped $N. {Slowly|Little by little}, $N got better. $He kept $a_thing next to $him {for good luck|and looked at it when $he was tired}. {Then one day|After a week}, $N could $skill {all by $himself|very well}!",
        ),
        (
            '"{I did it|Look at me|I can do it}!" {shouted|cried} $N. $F clapped and {cheered|laughed}. "I {knew you could do it|am proud of you}," $fe said.',
            "Everyone came to {see|watch}. They {clapped and cheered|were amazed}. $N was so {happy|proud}. @thank",
        ),
        (
            "$N learned that {if you keep trying, you can do great things|practice makes hard things easy}. @end",
            'Now, when someone says that something is too hard, $N says, "{Try once more|Do not give up}!" @end',
        ),
    ),
)

AFRAID = Plot(
    "afraid",
    (
        "who was afraid of $fear",
        "who is scared of $fear",
        "who learns to be brave",
        "who was scared of $fear",
    ),
    (
        (
            "$N had one {secret|problem}. $He was afraid of $fear. {It made $his heart beat fast|It made $him want to hide}.",
            "There was one thing that $N did not like: $fear. $He was so {scared|afraid} of $fear that $he {stayed at home|hid under $his blanket|could not sleep}.",
        ),
        (
            '@time $N had to go to $far. "What if I {get scared|meet something scary}?" $he thought. [$His legs were shaking. ]But $he went anyway.',
            '@time $his mother asked $him to {bring some $food|take a letter} to $far. $N did not want to go because of $fear. "{I am too scared|I cannot do it}," $he {said|whispered}.',
        ),
        (
            '@meet "You look scared," said $F. "I am afraid of $fear," {said $N|$he said} {softly|in a small voice}. "{That is all right|Everyone is afraid of something}," said $F.',
            '@meet "Why are you hiding?" asked the $fkind. "I am scared of $fear," said $N. $F {nodded|sat down next to $him}. "I was scared once too," $fe said.',
        ),
        (
            '$F gave $N $a_thing. "When you feel {scared|afraid}, hold this $object and {count to ten|take a deep breath|sing a song}," $fe said. $N {took|held} the $object and tried it. {It worked|Slowly, the fear became smaller}!',
            '"Take my $thing," said $F. "It {always makes me feel brave|helps me when I am scared}." $N held the $object in front of $him and took {one step, then another|a deep breath}. {Nothing bad happened|$He was not so scared anymore}.',
        ),
        (
            'Together they {walked on|went to $far}. $N thought about $fear, and $he was still a {bit|little} scared, but $he {kept going|did not run away}. "{I did it|I am not afraid anymore}!" $he {cried|said} at last.',
            'They walked side by side {to $far|all the way}. When it was over, $N {laughed|smiled}. "I am not so afraid of $fear when {I have a friend|you are with me}," $he said.',
        ),
        (
            "$N learned that being brave means {to try even when you are scared|going on when you are afraid}. @end",
            "$N kept the $thing {by $his bed|in a safe place}, and $he never forgot what $F had said. @end",
        ),
    ),
)

SHARING = Plot(
    "sharing",
    (
        "who did not want to share $his $thing",
        "who learns to share",
        "who would not share $a_thing",
        "who shares $a_thing",
    ),
    (
        (
            "$N had $a_thing. It was the {best|prettiest} $object of all, and $he {never let anyone touch it|did not want to share it}.",
            'For $his birthday, $N got $a_thing. $He was so {happy|proud}. "It is mine, only mine," said $N.',
        ),
        (
            '@time $a_friend named $F came to play. "{What a nice $object|I like your $object}," said $F. "May I {hold|try|see} it?" "No!" said $N. "{It is mine|You cannot have it}." $F {looked sad and went away|walked away with tears in $fis eyes}.',
            '@time $N took the $thing to $far. There $he met $a_friend named $F. "Can we play with it together?" asked $F. $N {shook $his head|turned away}. "No, it is mine," $he said. $F {felt very sad|went home alone}.',
        ),
        (
            "$N played alone{| all day}. But {soon|after a while} it was {not fun anymore|boring}. {The house was quiet|Nobody laughed with $him}. $N {felt lonely|was sad}.",
            'Now $N had the $object all to $himself. But {there was nobody to talk to|playing alone was no fun}. "{I was not kind|I was mean to $F}," $he thought. $N felt {bad|sorry}.',
        ),
        (
            'So $N {took the $thing and |}went to {look for|find} $F. "I am sorry," said $N. "I was not nice. {Do you want to|Would you like to} play with my $object?" $F {smiled|was happy}. "{Yes, please|I would love to}!" $fe said.',
            '$N ran to the house of $F. "Please {forgive me|do not be sad}," $he said. "Here is my $thing. {You can play with it too|We can share it}." "Thank you," said $F. "{You are kind|That is very nice of you}."',
        ),
        (
            "They {played|laughed and played} with the $object all {day|afternoon}. It was {much more fun|twice as much fun} with two. $N learned that {sharing makes everyone happy|things are better when you share them}. @end",
            '$F brought some $food, and they shared that too. "Sharing is {fun|better than being alone}," said $N. @end',
        ),
    ),
)

BROKEN = Plot(
    "broken object",
    (
        "who broke $a_thing",
        "who breaks $a_thing",
        "who told a lie about a broken $object",
        "who learns to tell the truth",
    ),
    (
        (
            "$N had a friend, $a_friend named $F. $F had $a_thing that $fe loved very much.",
            "$N's best friend was $a_friend named $F. [They did everything together. ]$F had $a_thing. It was very {special|dear} to $fim.",
        ),
        (
            "@time $N was playing {at the house of $F|with it}. {By accident|Oh no}, $he dropped the $thing. Crack! The $object was broken. $N {was scared|did not know what to do}.",
            "@time $N {ran and jumped|was not careful} and bumped into the table. The $thing fell down and broke. $N's heart {sank|beat fast}.",
        ),
        (
            '"What happened to my $object?" asked $F. "I do not know," said $N. {It was a lie|But that was not true}. [All night $N could not sleep. ]$He felt {bad|sick} inside.',
            '$N hid the $object {under the bed|behind a bush|in a box}. When $F asked about it, $N said, "{I have not seen it|Maybe the wind took it}." $F {was very sad|began to cry}. $N felt worse and worse.',
        ),
        (
            'At last, $N went to $F. "I must tell you the truth," $he said. "I broke your $thing. I am so sorry." $F was quiet for a {moment|while}. Then $fe said, "{Thank you for telling me|I am glad that you told the truth}."',
            'The next {day|morning}, $N {told $F everything|could not keep the secret anymore}. "It was me. I broke the $object, and I am sorry," $he said. $F was sad, but $fe {hugged|forgave} $him. "{It was brave to tell me|A friend is worth more than a $object}," $fe said.',
        ),
        (
            "Together they went to $far to find some {glue|string and glue}. They worked {all day|until evening}, and soon the $thing was {almost |}as good as new.",
            "Then they {fixed|mended} the $object together with {glue|glue and some string}. [It took a long time. ]It was not perfect, but {$F liked it even more|it was good again}.",
        ),
        (
            "$N learned that it is {always |}better to tell the truth. @end",
            "$N never told a lie again. {The truth had made $him feel light and free|Telling the truth felt much better}. @end",
        ),
    ),
)

NEW_FRIEND = Plot(
    "new friend",
    (
        "who made a new friend",
        "who wants a friend",
        "who has no friends",
        "who was looking for a friend",
        "who needed a friend",
    ),
    (
        (
            '$N had $a_thing, but $he had nobody to play with. Every day $he {sat by the window|played alone}. "I wish I had a friend," $he said.',
            '$N was lonely. $He had a nice home and $a_thing, but no friends. "It is no fun to play alone," $he thought.',
        ),
        (
            "@time $N took $his $object and went to $far. $He {asked|said hello to} everyone there, but they were all {too busy|busy}. $N {sighed|was sad} and {sat down|went on}.",
            '@time $N {made up $his mind|had an idea}. "I will go and find a friend," $he said. $He packed the $object and {walked|went} to $far.',
        ),
        (
            '@meet "Hello," said $N {shyly|with a smile}. "Do you want to play with me?" $F {looked at the $thing|looked up}. "{I would love to|Yes}!" $fe said. "I was {lonely too|looking for a friend as well}."',
            '@meet "What {a nice $object|a lovely $object}," said $F. "Would you like to play with it?" asked $N. "{Yes, please|Really? Yes}!" said the $fkind.',
        ),
        (
            "They played {hide and seek|tag|all kinds of games} and {ran|raced} around. $N showed $F how to {use|play with} the $thing. [Then they {shared|ate} some $food. ]They {laughed a lot|had so much fun}.",
            "All day long they played with the $object {and told each other stories|and laughed}. $F showed $N {a secret place|a little path} near $far. {It was wonderful|$N had never been so happy}.",
        ),
        (
            'When it was time to go home, $N was {a little sad|worried}. "Will you come back tomorrow?" $he asked. "{Of course|Yes, I will}," said $F. "We are friends now."',
            '"Are we friends?" asked $N. "{Yes|Of course}, {best friends|friends forever}," said $F{| and took $his hand}.',
        ),
        (
            "$N was not lonely anymore. @end",
            "$N learned that {sometimes you have to say hello first|a friend can be found in many places}. @end",
        ),
    ),
)

GOT_LOST = Plot(
    "got lost",
    ("who got lost", "who gets lost $at_far", "who cannot find the way home", "who was lost $at_far"),
    (
        (
            '@time $N took $his $thing and went for a walk. "Do not go too far," said $his {mother|father}. But $N {wanted to see more|followed a butterfly|did not listen}.',
            "@time $N followed {a butterfly|a little bird} {all the way|a long way}. $He had only $his $thing with $him. [$He did not look where $he was going. ]",
        ),
        (
            'Soon $he was $at_far, and everything looked {strange|different}. "Where am I?" said $N. $He {turned left and right|looked around}, but $he could not find the way home. $N was lost!',
            'When $N looked up, $he did not know {where $he was|the way back}. $He was all alone $at_far. {It was getting dark|The sun was going down}. "I want to go home," $he {cried|whispered}.',
        ),
        (
            '@meet "Are you lost?" asked $F. "Yes," said $N. "I live {far away, |}$at, and I cannot find the way." "{I know the way|I know that place}," said the $fkind. "{Follow me|Come with me}."',
            '@meet "What are you doing here {so late|all alone}?" asked the $fkind. "I am lost," said $N and held $his $object tight. "{Do not be afraid|Do not worry}," said $F. "I will {take|bring} you home."',
        ),
        (
            "They walked {over a hill|across a field} and {through the tall trees|along a little stream}. When $N was {tired|afraid}, $F {sang a song|told a funny story}. [$N let $F carry the $thing for a while. ]At last, they saw {a light|$place}. $N was home!",
            "The path was {long|dark}, but $F {held $his hand|stayed close to $him}. {$N waved $his $object to keep the flies away|$N held the $thing all the way}. {Step by step|Little by little}, they came closer to $place, and then $N saw $his own house.",
        ),
        (
            '$His family {ran out|was waiting at the door}. "We were so worried!" they said and hugged $him. @thank',
            "$N ran into the arms of $his {mother|father}. @thank As a gift, $he gave $F the $thing.",
        ),
        (
            "After that, $N {always listened|never went too far} and always looked at the path. @end",
            "$N learned to be careful, and that {help can come from anyone|a kind stranger can become a friend}. @end",
        ),
    ),
)

BUILDING = Plot(
    "building",
    (
        "who built a $structure",
        "who builds a $structure",
        "who wants to build a $structure",
        "who made a $structure with a friend",
    ),
    (
        (
            '@time $N had a {great |big |}idea. "I will build a $structure!" $he said. $He {ran to|went to} $far to {look for|find} everything $he needed.',
            "$N {dreamed of|always wanted} a $structure. @time $he {decided to|wanted to} build one $at_far.",
        ),
        (
            '$He worked {hard|all morning}, but {it was too much work for one|the pieces were too heavy}. The $structure fell {down|over} with a loud noise. "Oh no," said $N.',
            "$N {pulled and pushed|worked and worked}. But when the wind blew, everything fell {apart|down}. $N {was very tired|almost gave up}.",
        ),
        (
            '@meet "What are you making?" asked $F. "A $structure," said $N, "but I cannot do it alone." "{Let me help you|I am good at building}," said the $fkind. "{Together we are strong|We can do it together}."',
            '@meet "{Can I help|Do you need help}?" asked $F. "I want to build a $structure, but it keeps falling {down|over}," said $N. "{We need a plan|I have an idea}," said $F.',
        ),
        (
            "$N did the {first part|bottom}, and $F did the {second part|top}. They {worked side by side|sang as they worked}. {After lunch|At last}, only one thing was missing. So $N brought $his $thing and put it on top. The $structure was {finished|ready}!",
            "They worked together all {day|afternoon}. [When they were hungry, they ate some $food. ]By evening, the $structure was {done|ready}. $F {had brought|found} $a_thing, and they put the $object {on top|in front of it}. It looked {wonderful|very fine}.",
        ),
        (
            'Everyone came to see the $structure. "{It is beautiful!|How did you do that?|What a fine $structure!}" they said. "We did it together," said $N and $F.',
            '"{Look what we made|We did it}!" said $N. @thank',
        ),
        (
            "$N learned that {many hands make light work|big things are easier with a friend}. @end",
            "Every day they {played|met} there, and the $thing {was always with them|reminded them of that day}. @end",
        ),
    ),
)

PARTY = Plot(
    "party",
    (
        "who planned a surprise party",
        "who buys $a_thing for a birthday",
        "who gives $a_thing as a gift",
        "who makes a birthday party",
    ),
    (
        (
            '@time $N woke up early. It was the birthday of $his friend $F, $a_friend. "I want to make $fim happy," said $N.',
            '$N had a friend, $a_friend named $F. {Tomorrow was|It was almost} the birthday of $F. "I will plan a surprise {party|for $fim}," thought $N.',
        ),
        (
            "But what could $he give $fim? $N {thought and thought|thought for a long time}. Then $he {remembered|knew}: $F had always wanted $a_thing! So $N {walked|went} to $far to {find|get} one.",
            '$N went to $far to {find|look for} a gift. $He saw many things, but nothing was right. Then, {at the very end|in a little shop}, $he saw $a_thing. "That is {perfect|just right}!" said $N.',
        ),
        (
            "$He had no money, so $he {helped carry boxes|swept the floor|picked apples} all day to pay for it. {By evening|In the evening}, $N had the $object. $He {wrapped it in paper|tied a ribbon around it}.",
            "On the way home, it {started to rain|began to rain}. $N hid the $thing under $his coat to keep it dry. $He got {very wet|wet and cold}, but the $object was {safe|dry}.",
        ),
        (
            '$N {made|baked} $food and {asked|invited} everyone to come. [They put {flowers|lights} on the table. ]They all hid and waited. When $F came {in|through the door}, they shouted, "Surprise!"',
            'All the friends came {quietly|in secret} to the house. Then $F opened the door. "Surprise! Happy birthday!" they {shouted|cried}. $F {jumped|laughed} with joy.',
        ),
        (
            '$N gave $F the gift. $F opened it and {saw|found} the $thing. "{It is just what I wanted|I love it}!" $fe said. "{Thank you, $N|This is the best birthday ever}."',
            '"This is for you," said $N and gave $fim the $object. $F {had tears in $fis eyes|could not stop smiling}. "{You remembered|How did you know}!" $fe said.',
        ),
        (
            "They {danced|sang and danced} and ate $food until {late|night}. $N learned that {making others happy makes you happy too|giving is as nice as getting}. @end",
            "$N was tired, but $he was {very happy|full of joy}. @end",
        ),
    ),
)

PLANTING = Plot(
    "planting",
    (
        "who planted a seed",
        "who grows $a_plant",
        "who wants to grow $a_plant",
        "who learns to wait",
        "with a garden",
    ),
    (
        (
            '@time $N found a {tiny|little} seed $at_far. "What will it be?" $he {wondered|asked}. $He took it home and put it in the {ground|soil}. To mark the place, $he put $his $thing next to it.',
            "@time $N got a {tiny|little} seed from an old {woman|man}. $He planted it {behind|in front of} $his house and put $his $thing beside it, so that {$he could find it again|nobody would step on it}.",
        ),
        (
            'Every {day|morning}, $N gave it water. But nothing happened. One day passed, then two, then three. "Why {does it not grow|is it so slow}?" asked $N. $He was {sad|not happy}.',
            '$N waited and waited. {Nothing came up|There was nothing to see}. "{Grow, little seed|Please grow}!" $he said. But the seed {did not listen|took its time}.',
        ),
        (
            '@meet "What are you {doing|looking at}?" asked $F. "I am waiting for my seed," said $N, "but it does not grow." $F {smiled|laughed kindly}. "{Good things take time|You must be patient}," said the $fkind.',
            '@meet "I think my seed is {broken|bad}," said $N. "No," said $F, "it only needs {sun, water and time|time and love}. {We can wait together|I will wait with you}."',
        ),
        (
            "So they {waited together|sat by the $object every day}. They {told stories|sang songs} and gave the seed water. Then, one {warm|bright} morning, $N saw {something green|a small green leaf}. It grew and grew until it was a {big|beautiful} $plant!",
            "{Day after day|Week after week}, $F came to help. The sun was warm, and the rain was soft. {One day|At last}, a little green leaf came up {next to|beside} the $thing. {Soon|In the end} it was a {fine|big|lovely} $plant.",
        ),
        (
            '"Look! {It is here|We did it}!" {cried|said} $N. They danced around the $plant. "It was worth the wait," said $F.',
            "$N was {so|very} proud of the $plant. @thank",
        ),
        (
            "$N learned that {you have to be patient|the best things need time}. @end",
            "Each year they planted a new seed together, and the $object always {stood beside it|showed them the place}. @end",
        ),
    ),
)

RESCUE = Plot(
    "rescue",
    ("who helped $a_fkind", "who saves $a_fkind", "who rescued $a_fkind", "who helps someone with $a_thing"),
    (
        (
            '$N had $a_thing and took it everywhere. ["You never know when you need it," $he always said. ]@time $he was walking near $far when $he heard a {voice|cry}. "Help! Help!"',
            '@time $N was playing with $his $thing {near|not far from} $far. Suddenly, $he heard someone {call|shout}, "Help me, please!"',
        ),
        (
            '$N ran as fast as $he could. There was $a_friend named $F, stuck in {a deep hole|the mud}. "{I cannot get out|I fell in and I am stuck}," said $F.',
            '{$He looked around|$N followed the sound} and found $a_friend. {The $fkind|$Fe} was stuck {under a fallen branch|between two rocks}. "My name is $F," $fe said. "{Please help me|I cannot move}."',
        ),
        (
            '"Do not worry, I will help you," said $N. $He pulled and pulled, but {$he was not strong enough|it did not work}. $N {thought hard|looked at $his $object}. Then $he had an idea!',
            '$N was {a little afraid|worried}, but $he did not run away. "{Stay calm|Wait}," $he said. "I have {an idea|a plan}." $He {tried once|pushed hard}, but it did not work. So $he {tried again|thought of something else}.',
        ),
        (
            '"Hold on to my $thing!" said $N. $F held the $object with all $fis strength, and $N pulled. One, two, three! $F was free.',
            "$N used the $thing to {dig|push} and {pushed|pulled} with all $his strength. {Slowly|Little by little}, there was more room, and $F could {climb|get} out. $Fe was {safe|free} at last.",
        ),
        (
            '"You saved me!" said $F. "{You are a hero|How can I thank you}?" "{I am happy to help|That is what friends are for}," said $N.',
            '"Thank you, thank you!" {cried|said} the $fkind. "{You are so brave|You did not leave me alone}." $N {smiled|laughed}. "{Anyone would do the same|I am glad you are safe}," $he said.',
        ),
        (
            "To thank $N, $F made $him some $food. @end",
            "$N learned that {even someone small can be a big help|helping others makes the heart warm}. @end",
            "Everyone $at heard about it and {cheered for $N|called $N a hero}. @end",
        ),
    ),
)

RACE = Plot(
    "race",
    ("who wanted to win a race", "who wins $a_thing in a race", "who ran in a race", "who is in a race"),
    (
        (
            "@time there was a big race $at_far. The prize was $a_thing. $N wanted to win it {very much|more than anything}.",
            '@time $N heard about a race. "The winner gets $a_thing!" said everyone. "I {want|would love} to have that $object," said $N and went to $far.',
        ),
        (
            'There $he met $a_friend named $F. "I am {faster than you|the fastest of all}," said $F. "{We will see|I will do my best}," said $N.',
            "Many others came to run. One of them was $F, $a_friend. $F {looked very fast|had practiced for this day}. $N was {nervous|worried}.",
        ),
        (
            '"Ready, set, go!" They {all |}ran. $F was in front, and $N was right behind $fim. {Their hearts beat fast|The crowd cheered}. Then $F {fell over a stone|slipped} and {hurt $fis leg|could not get up}.',
            'The race {began|started}. They ran {over the grass|up the path} and {around the trees|past the rocks}. {Suddenly|Near the end}, $F tripped and fell. "Ouch!" cried $F.',
        ),
        (
            '$N could run on and win. But $he stopped. "{Are you hurt|Can you walk}?" $he asked. "{My leg hurts|I cannot run}," said $F. $N helped $fim up, and they {walked|went} to the end together, side by side.',
            '$N saw the finish in front of $him. $He thought of the $thing. Then $he {turned around|went back}. "{Lean on me|Take my hand}," said $N. {Slowly|Step by step}, they {crossed the line|came to the end} together. They were last.',
        ),
        (
            'Everyone {clapped|cheered} for them. "A kind heart is {the best prize|better than fast feet}," said the old {judge|king} and gave the $object to $N{| and $F}.',
            'Another runner won the race and got the $thing. But when the winner heard {what $N had done|about it}, they gave the $object to $N. "You {earned it|are the real winner}," they said.',
        ),
        (
            "$N {let $F have a turn with the $thing|shared the $object with $F}. @end",
            "$N learned that {being kind is more important than winning|a friend is the best prize of all}. @end",
        ),
    ),
)

PLOTS = (
    LOST_OBJECT,
    FOUND_OBJECT,
    LEARN_SKILL,
    AFRAID,
    SHARING,
    BROKEN,
    NEW_FRIEND,
    GOT_LOST,
    BUILDING,
    PARTY,
    PLANTING,
    RESCUE,
    RACE,
)
