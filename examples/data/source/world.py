"""The facts of the small world, in tables: what sentences say and records are checked by."""

COLOURS = {
    "black": "黑色",
    "white": "白色",
    "red": "红色",
    "blue": "蓝色",
    "green": "绿色",
    "yellow": "黄色",
    "brown": "棕色",
    "grey": "灰色",
    "orange": "橙色",
    "pink": "粉色",
    "purple": "紫色",
    "black and white": "黑白色",
}
SIZES = {"small": "很小", "big": "很大", "huge": "非常大"}
KINDS = {
    "bird": "鸟",
    "fish": "鱼",
    "insect": "昆虫",
    "mammal": "哺乳动物",
    "reptile": "爬行动物",
    "amphibian": "两栖动物",
}
COVERS = {"bird": ("feathers", "羽毛"), "mammal": ("fur", "毛"), "fish": ("scales", "鳞片")}
FOODS_OF_ANIMALS = {
    "grass": "草",
    "meat": "肉",
    "fish": "鱼",
    "corn": "玉米",
    "seeds": "种子",
    "leaves": "树叶",
    "carrots": "胡萝卜",
    "cheese": "奶酪",
    "eggs": "鸡蛋",
    "honey": "蜂蜜",
    "bamboo": "竹子",
    "bananas": "香蕉",
    "nuts": "坚果",
    "insects": "虫子",
    "mice": "老鼠",
    "shrimp": "虾",
    "nectar": "花蜜",
    "bread": "面包",
}
HOMES = {
    "forest": ("in the forest", "森林里"),
    "farm": ("on the farm", "农场里"),
    "river": ("in the river", "河里"),
    "lake": ("at the lake", "湖边"),
    "pond": ("in the pond", "池塘里"),
    "sea": ("in the sea", "大海里"),
    "mountain": ("on the mountain", "山上"),
    "desert": ("in the desert", "沙漠里"),
    "grassland": ("on the grassland", "草原上"),
    "house": ("in the house", "家里"),
    "garden": ("in the garden", "花园里"),
    "cave": ("in the cave", "山洞里"),
    "ice": ("on the ice", "冰上"),
    "field": ("in the field", "田野里"),
}
LEGS = {"no": "没有", "two": "两", "four": "四", "six": "六"}
ABILITIES = {
    "fly": "飞",
    "swim": "游泳",
    "climb trees": "爬树",
    "run fast": "跑得很快",
    "jump high": "跳得很高",
    "walk": "走路",
}

# name | plural | zh | measure word | colour | size | kind | food | home | legs | can | cannot
_ANIMALS = """
cat | cats | 猫 | 只 | grey | small | mammal | fish | house | four | climb trees | fly
dog | dogs | 狗 | 只 | brown | big | mammal | meat | house | four | run fast | fly
cow | cows | 牛 | 头 | brown | big | mammal | grass | farm | four | swim | climb trees
horse | horses | 马 | 匹 | black | big | mammal | grass | farm | four | run fast | fly
pig | pigs | 猪 | 头 | pink | big | mammal | corn | farm | four | run fast | fly
sheep | sheep | 绵羊 | 只 | white | big | mammal | grass | farm | four | jump high | fly
goat | goats | 山羊 | 只 | white | big | mammal | leaves | mountain | four | climb trees | fly
rabbit | rabbits | 兔子 | 只 | white | small | mammal | carrots | garden | four | jump high | fly
mouse | mice | 老鼠 | 只 | grey | small | mammal | cheese | house | four | run fast | fly
fox | foxes | 狐狸 | 只 | orange | small | mammal | eggs | forest | four | run fast | fly
wolf | wolves | 狼 | 只 | grey | big | mammal | meat | forest | four | run fast | fly
bear | bears | 熊 | 头 | brown | big | mammal | honey | cave | four | climb trees | fly
panda | pandas | 熊猫 | 只 | black and white | big | mammal | bamboo |mountain|four|climb trees|fly
zebra | zebras | 斑马 | 匹 | black and white | big | mammal | grass | grassland | four | run fast | fly
lion | lions | 狮子 | 头 | yellow | big | mammal | meat | grassland | four | run fast | fly
tiger | tigers | 老虎 | 只 | orange | big | mammal | meat | forest | four | swim | fly
monkey | monkeys | 猴子 | 只 | brown | small | mammal | bananas | forest | four | climb trees | fly
elephant | elephants | 大象 | 头 | grey | huge | mammal | leaves | grassland | four | swim | jump high
giraffe | giraffes | 长颈鹿 | 头 | yellow | huge | mammal | leaves | grassland | four | run fast | fly
camel | camels | 骆驼 | 头 | brown | big | mammal | grass | desert | four | run fast | fly
deer | deer | 鹿 | 头 | brown | big | mammal | leaves | forest | four | jump high | fly
squirrel | squirrels | 松鼠 | 只 | red | small | mammal | nuts | forest | four | climb trees | fly
bat | bats | 蝙蝠 | 只 | black | small | mammal | insects | cave | two | fly | swim
whale | whales | 鲸鱼 | 头 | blue | huge | mammal | shrimp | sea | no | swim | walk
dolphin | dolphins | 海豚 | 只 | grey | big | mammal | fish | sea | no | swim | walk
polar bear | polar bears | 北极熊 | 头 | white | big | mammal | fish | ice | four | swim | fly
kangaroo | kangaroos | 袋鼠 | 只 | brown | big | mammal | grass | grassland | four | jump high | fly
crow | crows | 乌鸦 | 只 | black | small | bird | corn | field | two | fly | swim
swan | swans | 天鹅 | 只 | white | big | bird | grass | lake | two | swim | climb trees
owl | owls | 猫头鹰 | 只 | brown | small | bird | mice | forest | two | fly | swim
parrot | parrots | 鹦鹉 | 只 | green | small | bird | seeds | forest | two | fly | swim
penguin | penguins | 企鹅 | 只 | black and white | big | bird | fish | ice | two | swim | fly
duck | ducks | 鸭子 | 只 | brown | small | bird | seeds | pond | two | swim | climb trees
hen | hens | 母鸡 | 只 | red | small | bird | corn | farm | two | run fast | swim
eagle | eagles | 鹰 | 只 | brown | big | bird | fish | mountain | two | fly | swim
flamingo | flamingos | 火烈鸟 | 只 | pink | big | bird | shrimp | lake | two | fly | climb trees
swallow | swallows | 燕子 | 只 | black | small | bird | insects | farm | two | fly | swim
ostrich | ostriches | 鸵鸟 | 只 | black | huge | bird | seeds | grassland | two | run fast | fly
peacock | peacocks | 孔雀 | 只 | blue | big | bird | seeds | garden | two | fly | swim
goldfish | goldfish | 金鱼 | 条 | orange | small | fish | bread | pond | no | swim | walk
shark | sharks | 鲨鱼 | 条 | grey | big | fish | fish | sea | no | swim | walk
carp | carp | 鲤鱼 | 条 | red | small | fish | insects | river | no | swim | walk
bee | bees | 蜜蜂 | 只 | yellow | small | insect | nectar | garden | six | fly | swim
butterfly | butterflies | 蝴蝶 | 只 | blue | small | insect | nectar | garden | six | fly | swim
ant | ants | 蚂蚁 | 只 | black | small | insect | bread | garden | six | climb trees | swim
ladybird | ladybirds | 瓢虫 | 只 | red | small | insect | insects | field | six | fly | swim
grasshopper|grasshoppers|蚱蜢|只| green | small | insect | grass | field | six | jump high | swim
snake | snakes | 蛇 | 条 | green | big | reptile | mice | grassland | no | climb trees | walk
turtle | turtles | 乌龟 | 只 | green | small | reptile | leaves | pond | four | swim | run fast
crocodile | crocodiles | 鳄鱼 | 条 | green | big | reptile | meat | river | four | swim | fly
frog | frogs | 青蛙 | 只 | green | small | amphibian | insects | pond | four | jump high | fly
"""
# What is special about each animal, in the same order.
_NOTES = """
cat | sleeps all day | 白天喜欢睡觉
dog | is a good friend | 是人的好朋友
cow | gives us milk | 给我们牛奶
horse | pulls the cart | 会拉车
pig | likes mud | 喜欢泥
sheep | gives us wool | 给我们羊毛
goat | has two horns | 头上有两只角
rabbit | has long ears | 有长长的耳朵
mouse | is afraid of cats | 害怕猫
fox | is very clever | 非常聪明
wolf | sings to the moon | 对着月亮叫
bear | sleeps all winter | 冬天一直睡觉
panda | has black eyes | 有黑黑的眼睛
zebra | has many stripes | 身上有很多条纹
lion | is very strong | 非常强壮
tiger | walks very quietly | 走路没有声音
monkey | has a long tail | 有长长的尾巴
elephant | has a long nose | 有长长的鼻子
giraffe | has a long neck | 有长长的脖子
camel | can live without water for days | 好几天不喝水也行
deer | is very shy | 非常害羞
squirrel | has a soft tail | 有软软的尾巴
bat | sleeps upside down | 倒着睡觉
whale | is the biggest animal | 是最大的动物
dolphin | likes to play | 喜欢玩
polar bear | is not afraid of the cold | 不怕冷
kangaroo | has a pocket for its baby | 用口袋装孩子
crow | likes shiny things | 喜欢发光的东西
swan | is very beautiful | 非常美丽
owl | sees well at night | 晚上看得很清楚
parrot | can learn to talk | 会学人说话
penguin | walks from side to side | 走路摇摇摆摆
duck | has flat feet | 脚是扁扁的
hen | gives us eggs | 给我们鸡蛋
eagle | has sharp eyes | 眼睛很尖
flamingo | stands on one leg | 用一条腿站着
swallow | comes back in spring | 春天会飞回来
ostrich | is the biggest bird | 是最大的鸟
peacock | has a beautiful tail | 有美丽的尾巴
goldfish | has big eyes | 有大大的眼睛
shark | has many teeth | 有很多牙齿
carp | jumps out of the water | 会跳出水面
bee | makes honey | 会做蜂蜜
butterfly | loves flowers | 喜欢花
ant | works all day | 每天都工作
ladybird | has black spots | 身上有黑点
grasshopper | sings in summer | 夏天会唱歌
snake | is very long | 身体很长
turtle | has a hard shell | 有硬硬的壳
crocodile | has a big mouth | 有大大的嘴
frog | sings in the rain | 下雨时会唱歌
"""
_ANIMAL_FIELDS = "en plural zh measure colour size kind food home legs can cannot".split()

SOUNDS = {
    "cat": ("meow", "喵喵"),
    "dog": ("woof", "汪汪"),
    "cow": ("moo", "哞哞"),
    "duck": ("quack", "嘎嘎"),
    "sheep": ("baa", "咩咩"),
    "hen": ("cluck", "咯咯"),
    "crow": ("caw", "哇哇"),
    "bee": ("buzz", "嗡嗡"),
    "frog": ("croak", "呱呱"),
    "mouse": ("squeak", "吱吱"),
}

# name | plural (empty: uncountable) | zh | colour | taste | kind | season | where it comes from
_FOODS = """
apple | apples | 苹果 | red | sweet | fruit | autumn | grow on trees | 长在树上
banana | bananas | 香蕉 | yellow | sweet | fruit | summer | grow on trees | 长在树上
orange | oranges | 橙子 | orange | sweet | fruit | winter | grow on trees | 长在树上
grape | grapes | 葡萄 | purple | sweet | fruit | autumn | grow in the garden | 长在花园里
strawberry | strawberries | 草莓 | red | sweet | fruit | spring | grow near the ground | 长在地上
watermelon | watermelons | 西瓜 | green | sweet | fruit | summer | grow on the ground | 长在地上
lemon | lemons | 柠檬 | yellow | sour | fruit | winter | grow on trees | 长在树上
pear | pears | 梨 | yellow | sweet | fruit | autumn | grow on trees | 长在树上
peach | peaches | 桃子 | pink | sweet | fruit | summer | grow on trees | 长在树上
carrot | carrots | 胡萝卜 | orange | sweet | vegetable | autumn | grow under the ground | 长在地下
cabbage | cabbages | 白菜 | green | fresh | vegetable | winter | grow in the field | 长在田野里
tomato | tomatoes | 西红柿 | red | sour | vegetable | summer | grow in the garden | 长在花园里
potato | potatoes | 土豆 | brown | fresh | vegetable | autumn | grow under the ground | 长在地下
pumpkin | pumpkins | 南瓜 | orange | sweet | vegetable | autumn | grow on the ground | 长在地上
pea | peas | 豌豆 | green | sweet | vegetable | spring | grow in the garden | 长在花园里
mushroom | mushrooms | 蘑菇 | brown | fresh | vegetable | autumn | grow in the forest | 长在森林里
corn | | 玉米 | yellow | sweet | vegetable | autumn | grows in the field | 长在田野里
bread | | 面包 | brown | good | food | | is made of flour | 是用面粉做的
rice | | 米饭 | white | good | food | | is cooked with water | 是用水煮的
milk | | 牛奶 | white | fresh | drink | | comes from the cow | 来自牛
tea | | 茶 | brown | good | drink | | is made with hot water | 是用热水泡的
honey | | 蜂蜜 | yellow | sweet | food | | comes from bees | 来自蜜蜂
cheese | | 奶酪 | yellow | salty | food | | is made of milk | 是用牛奶做的
sugar | | 糖 | white | sweet | food | | is kept in the kitchen | 放在厨房里
salt | | 盐 | white | salty | food | | comes from the sea | 来自大海
"""
_FOOD_FIELDS = "en plural zh colour taste kind season origin origin_zh".split()
TASTES = {"sweet": "甜", "sour": "酸", "salty": "咸", "fresh": "新鲜", "good": "好吃"}
FOOD_KINDS = {"fruit": "水果", "vegetable": "蔬菜", "drink": "饮料", "food": "食物"}

# name | zh | what we do with it
_TOOLS = """
hammer | 锤子 | hit nails | 钉钉子
saw | 锯子 | cut wood | 锯木头
knife | 刀 | cut bread | 切面包
spoon | 勺子 | eat soup | 喝汤
broom | 扫帚 | sweep the floor | 扫地
needle | 针 | sew clothes | 缝衣服
pen | 笔 | write words | 写字
umbrella | 雨伞 | keep off the rain | 挡雨
lamp | 灯 | light the room | 照亮房间
clock | 钟 | tell the time | 看时间
key | 钥匙 | open the door | 开门
cup | 杯子 | drink water | 喝水
bucket | 水桶 | carry water | 提水
shovel | 铲子 | dig holes | 挖洞
axe | 斧头 | chop trees | 砍树
brush | 画笔 | paint pictures | 画画
kettle | 水壶 | boil water | 烧水
net | 渔网 | catch fish | 捕鱼
ladder | 梯子 | reach high places | 爬到高处
basket | 篮子 | carry fruit | 装水果
"""
_TOOL_FIELDS = "en zh use use_zh".split()

# name | zh | does | the same | where | zh | tool
_JOBS = """
farmer | 农民 | grows corn | 种玉米 | on the farm | 农场里 | bucket
baker | 面包师 | bakes bread | 烤面包 | in the bakery | 面包店里 | knife
teacher | 老师 | teaches children | 教孩子 | in the school | 学校里 | pen
doctor | 医生 | helps sick people | 给人看病 | in the hospital | 医院里 |
cook | 厨师 | cooks food | 做饭 | in the kitchen | 厨房里 | spoon
driver | 司机 | drives a bus | 开公交车 | on the road | 路上 | key
fisher | 渔夫 | catches fish | 捕鱼 | on the sea | 海上 | net
carpenter | 木匠 | makes tables | 做桌子 | in the workshop | 木工房里 | hammer
painter | 画家 | paints pictures | 画画 | in the studio | 画室里 | brush
gardener | 园丁 | plants flowers | 种花 | in the garden | 花园里 | shovel
tailor | 裁缝 | makes clothes | 做衣服 | in the shop | 商店里 | needle
postman | 邮递员 | brings letters | 送信 | in the town | 城里 |
firefighter | 消防员 | puts out fires | 灭火 | in the town | 城里 | ladder
pilot | 飞行员 | flies a plane | 开飞机 | in the sky | 天上 |
shepherd | 牧羊人 | looks after sheep | 放羊 | on the grassland | 草原上 |
singer | 歌手 | sings songs | 唱歌 | on the stage | 舞台上 |
"""
_JOB_FIELDS = "en zh does does_zh place place_zh tool".split()

# name | zh | job (empty: child) | likes to eat or drink | zh | pet
_FAMILY = """
Father | 爸爸 | carpenter | bread | 面包 |
Mother | 妈妈 | teacher | tea | 茶 |
Grandmother | 奶奶 | baker | pumpkins | 南瓜 |
Grandfather | 爷爷 | fisher | fish | 鱼 |
Uncle | 叔叔 | farmer | corn | 玉米 | horse
Aunt | 姑姑 | doctor | grapes | 葡萄 |
Tom | 小明 | | apples | 苹果 | dog
Anna | 小红 | | strawberries | 草莓 | cat
"""
_PERSON_FIELDS = "en zh job likes likes_zh pet".split()

DAYS = [
    ("Monday", "星期一", "wash the clothes", "洗衣服"),
    ("Tuesday", "星期二", "bake bread", "烤面包"),
    ("Wednesday", "星期三", "go to the market", "去市场"),
    ("Thursday", "星期四", "clean the house", "打扫房间"),
    ("Friday", "星期五", "go fishing", "去钓鱼"),
    ("Saturday", "星期六", "paint pictures", "画画"),
    ("Sunday", "星期天", "visit Grandmother", "去看奶奶"),
]
SEASONS = [
    ("spring", "春天", "warm", "暖和", "flowers open", "花开了", "plant seeds", "种种子"),
    (
        "summer",
        "夏天",
        "hot",
        "热",
        "the sun is strong",
        "太阳很大",
        "swim in the lake",
        "去湖里游泳",
    ),
    ("autumn", "秋天", "cool", "凉快", "leaves fall", "树叶落下来", "pick apples", "摘苹果"),
    ("winter", "冬天", "cold", "冷", "snow falls", "下雪", "make a snowman", "堆雪人"),
]
WEATHER = [
    ("rainy", "下雨", "take an umbrella", "带雨伞"),
    ("sunny", "晴天", "wear a hat", "戴帽子"),
    ("snowy", "下雪", "wear a warm coat", "穿厚衣服"),
    ("windy", "刮风", "fly a kite", "放风筝"),
    ("cloudy", "多云", "go for a walk", "去散步"),
    ("foggy", "有雾", "walk slowly", "慢慢走"),
]
OPPOSITES = [
    ("big", "small", "大", "小"),
    ("hot", "cold", "热", "冷"),
    ("tall", "short", "高", "矮"),
    ("fast", "slow", "快", "慢"),
    ("up", "down", "上", "下"),
    ("open", "closed", "开", "关"),
    ("day", "night", "白天", "夜晚"),
    ("black", "white", "黑", "白"),
    ("new", "old", "新", "旧"),
    ("happy", "sad", "高兴", "难过"),
    ("full", "empty", "满", "空"),
    ("light", "heavy", "轻", "重"),
    ("wet", "dry", "湿", "干"),
    ("hard", "soft", "硬", "软"),
    ("near", "far", "近", "远"),
    ("early", "late", "早", "晚"),
    ("clean", "dirty", "干净", "脏"),
    ("strong", "weak", "强", "弱"),
    ("left", "right", "左", "右"),
    ("inside", "outside", "里面", "外面"),
    ("thick", "thin", "厚", "薄"),
    ("many", "few", "多", "少"),
]
THINGS = [
    ("sky", "天空", "blue"),
    ("sun", "太阳", "yellow"),
    ("snow", "雪", "white"),
    ("grass", "草", "green"),
    ("sea", "大海", "blue"),
    ("cloud", "云", "white"),
    ("fire", "火", "red"),
    ("stone", "石头", "grey"),
    ("wood", "木头", "brown"),
    ("night", "黑夜", "black"),
    ("rose", "玫瑰", "red"),
    ("tree", "树", "green"),
]
NUMBERS = [
    ("one", "一"),
    ("two", "二"),
    ("three", "三"),
    ("four", "四"),
    ("five", "五"),
    ("six", "六"),
    ("seven", "七"),
    ("eight", "八"),
    ("nine", "九"),
    ("ten", "十"),
]


def _rows(text, fields):
    """One dict a line; cells are stripped and empty cells stay empty."""
    rows = []
    for line in text.strip().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != len(fields):
            raise ValueError(f"{len(cells)} cells, expected {len(fields)}: {line}")
        rows.append(dict(zip(fields, cells)))
    return rows


ANIMALS = {row["en"]: row for row in _rows(_ANIMALS, _ANIMAL_FIELDS)}
for _note in _rows(_NOTES, "en note note_zh".split()):
    ANIMALS[_note["en"]].update(_note)
FOODS = {row["en"]: row for row in _rows(_FOODS, _FOOD_FIELDS)}
TOOLS = {row["en"]: row for row in _rows(_TOOLS, _TOOL_FIELDS)}
JOBS = {row["en"]: row for row in _rows(_JOBS, _JOB_FIELDS)}
FAMILY = {row["en"]: row for row in _rows(_FAMILY, _PERSON_FIELDS)}


def zh_of(attribute, value):
    """The Chinese word of an animal's attribute, as it stands in a sentence."""
    tables = {
        "colour": COLOURS,
        "size": SIZES,
        "kind": KINDS,
        "food": FOODS_OF_ANIMALS,
        "can": ABILITIES,
        "cannot": ABILITIES,
        "legs": LEGS,
    }
    return HOMES[value][1] if attribute == "home" else tables[attribute][value]


def en_of(attribute, value):
    """The English words of an animal's attribute, as they stand in a sentence."""
    return HOMES[value][0] if attribute == "home" else value


def check_tables():
    """Each value of an animal is a known one, and names are not used twice."""
    for row in ANIMALS.values():
        for attribute in "colour size kind food home legs can cannot".split():
            zh_of(attribute, row[attribute])
        assert row["can"] != row["cannot"] and row["note"] and row["note_zh"], row
    for row in FOODS.values():
        assert (
            row["colour"] in COLOURS and row["taste"] in TASTES and row["kind"] in FOOD_KINDS
        ), row
    for row in JOBS.values():
        assert not row["tool"] or row["tool"] in TOOLS, row
    for row in FAMILY.values():
        assert not row["job"] or row["job"] in JOBS, row
    tables = (ANIMALS, FOODS, TOOLS, JOBS, FAMILY)
    names = [row["zh"] for table in tables for row in table.values()]
    assert len(names) == len(set(names)), "a Chinese name is used twice"
